"""Pseudo-queries of a user who comes back: what still holds, and the sample that goes on."""

from collections import Counter
from dataclasses import replace

import pytest
from builders import Rows, completion, rows_of, run_config, user
from scipy.stats import chisquare

from hydra_ray.adapt.drafts import Ranked, draft_requests, label_drafts
from hydra_ray.config import RunConfig
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.probes import label_probes, probe_requests, retrieve_records
from hydra_ray.retrieve.earlier import Earlier
from hydra_ray.rows import ProbedQuery, ProbedUser, Record, User

TASK = TASKS["planted"]
NUM = 3


def config(num_pseudo: int = NUM) -> RunConfig:
    return run_config(
        probes={"num_records": 3, "num_pseudo_queries": num_pseudo}, drafts={"num_pseudo_queries": num_pseudo}
    )


@pytest.fixture(scope="module")
def rows() -> Rows:
    """A user with five records, whose generator always answers."""
    return rows_of(user(5), lambda _: ["comedy"], config=config())


def new_record(name: str) -> Record:
    return Record(record_id=name, input=f"another story {name} of romance", output="romance")


def with_records(someone: User, *records: Record) -> User:
    return replace(someone, history=(*someone.history, *records))


def earlier(rows: Rows, now: User) -> Earlier:
    return Earlier(user=now, before=rows.user, probed=rows.probed, drafted=rows.drafted)


def pseudo(probed: ProbedUser) -> dict[str, ProbedQuery]:
    return {query.query_id: query for query in probed.queries if query.is_pseudo}


def asked_again(rows: Rows, now: User, num_pseudo: int = NUM) -> tuple[set[str], ProbedUser]:
    """The pseudo-queries that are probed in an update, and the user's probes after it."""
    settings, tokenizer = config(num_pseudo), fake_tokenizer()
    retrieved = [(now, retrieve_records(now, TASK, settings, None, earlier(rows, now)))]
    requests = list(probe_requests(retrieved, TASK, tokenizer, settings))
    completions = {each.key: completion(each.request, "romance") for each in requests}
    (probed,) = label_probes(retrieved, completions, TASK)
    return {name for name in pseudo(probed) if any(name in each.key for each in requests)}, probed


def test_nothing_is_asked_again_where_no_record_is_new(rows: Rows):
    asked, probed = asked_again(rows, rows.user)
    assert not asked
    assert pseudo(probed) == pseudo(rows.probed)


def test_a_kept_pseudo_query_stays_as_it_was_whatever_records_come(rows: Rows):
    now = with_records(rows.user, new_record("a"), new_record("b"))
    asked, probed = asked_again(rows, now)
    kept = set(pseudo(probed)) & set(pseudo(rows.probed))
    assert kept
    assert all(pseudo(probed)[each] == pseudo(rows.probed)[each] for each in kept)
    assert asked == set(pseudo(probed)) - kept


def test_own_queries_are_asked_with_all_records(rows: Rows):
    now = with_records(rows.user, new_record("a"))
    _, probed = asked_again(rows, now)
    (own,) = (query for query in probed.queries if not query.is_pseudo)
    (expected,) = (q for q in retrieve_records(now, TASK, config(), None).queries if not q.is_pseudo)
    assert own.retrieved == expected.retrieved


def test_a_changed_record_takes_its_answers_with_it(rows: Rows):
    shown = {name: {each.record_id for each in query.probes} for name, query in pseudo(rows.probed).items()}
    for record in rows.user.history:
        touched = {
            name for name, ids in shown.items() if record.record_id in ids or name == f"record:{record.record_id}"
        }
        changed = tuple(replace(each, input="other") if each == record else each for each in rows.user.history)
        deleted = tuple(each for each in rows.user.history if each != record)
        for history in (changed, deleted):
            found = earlier(rows, replace(rows.user, history=history))
            assert set(found.probes()) == set(shown) - touched
            assert set(found.drafts(rows.probed)) <= set(found.probes())
            shows = [name for each in found.drafts(rows.probed).values() for p in each.prompts for name in p.record_ids]
            assert record.record_id not in shows


def test_what_failed_is_asked_again(rows: Rows):
    (first, *others) = pseudo(rows.probed).values()
    failed = replace(first.probes[0], answer=replace(first.probes[0].answer, value=None, error="timeout"))
    probed = replace(rows.probed, queries=(replace(first, probes=(failed, *first.probes[1:])), *others))
    assert set(replace_probed(rows, probed).probes()) == {each.query_id for each in others}


def replace_probed(rows: Rows, probed: ProbedUser) -> Earlier:
    return Earlier(user=rows.user, before=rows.user, probed=probed)


def test_drafts_are_kept_only_with_the_probes_they_were_made_from(rows: Rows):
    found = earlier(rows, rows.user)
    assert set(found.drafts(rows.probed)) == set(pseudo(rows.probed))
    (first, *_) = pseudo(rows.probed).values()
    other = replace(first, retrieved=first.retrieved[1:], probes=first.probes[1:])
    probed = replace(rows.probed, queries=tuple(other if q == first else q for q in rows.probed.queries))
    assert set(found.drafts(probed)) == set(pseudo(rows.probed)) - {first.query_id}


def test_kept_drafts_are_not_made_again_and_stand_among_the_others(rows: Rows):
    kept = earlier(rows, rows.user).drafts(rows.probed)
    (name, one), *_ = kept.items()
    row = Ranked(user=rows.user, profiled=rows.profiled, probed=rows.probed, scored=rows.scored, kept={name: one})
    asked = [each for each in draft_requests([row], TASK, fake_tokenizer(), config()) if f'"{name}"' in each.key]
    assert not asked
    whole = {each.key: completion(each.request, "comedy") for each in rows.asked}
    (drafted,) = label_drafts([row], whole, TASK, config())
    assert [each.query_id for each in drafted.queries] == [each.query_id for each in rows.drafted.queries]
    assert one in drafted.queries


def sample(rows: Rows, now: User, seed: int) -> list[str]:
    return earlier(rows, now).sampled([each.record_id for each in now.history], NUM, seed)


def test_without_new_records_the_sample_stays(rows: Rows):
    assert [f"record:{each}" for each in sample(rows, rows.user, 0)] == list(pseudo(rows.probed))


def test_few_of_the_sample_change(rows: Rows):
    before = {each.removeprefix("record:") for each in pseudo(rows.probed)}
    for seed in range(50):
        found = sample(rows, with_records(rows.user, new_record("a")), seed)
        assert len(found) == len(set(found)) == NUM
        assert len(set(found) - before) <= 1


def test_each_new_record_is_in_the_sample_as_often_as_an_old_one_and_anywhere_in_it():
    # The earlier sample is itself one of many.
    names = [str(n) for n in range(5)]
    places: Counter[tuple[str, int]] = Counter()
    for seed in range(3000):
        someone = replace(user(5), user_id=f"u{seed}")
        probed = retrieve_records(someone, TASK, config(), None)
        now = with_records(someone, new_record("a"), new_record("b"))
        found = Earlier(user=now, before=someone, probed=probed).sampled([*names, "a", "b"], NUM, 0)
        places.update((name, place) for place, name in enumerate(found))
    counts = [places[name, place] for name in [*names, "a", "b"] for place in range(NUM)]
    assert chisquare(counts).pvalue > 1e-4


def test_a_deleted_records_place_is_taken_by_another(rows: Rows):
    (first, *_) = (each.removeprefix("record:") for each in pseudo(rows.probed))
    now = replace(rows.user, history=tuple(each for each in rows.user.history if each.record_id != first))
    found = sample(rows, now, 0)
    assert len(found) == len(set(found)) == NUM
    assert first not in found


def test_a_short_history_that_grows_fills_the_sample():
    rows = rows_of(user(2), lambda _: ["comedy"], config=config(8))
    now = with_records(rows.user, *(new_record(name) for name in "abc"))
    found = earlier(rows, now).sampled([each.record_id for each in now.history], 8, 0)
    assert sorted(found) == ["0", "1", "a", "b", "c"]
