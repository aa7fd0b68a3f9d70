"""An exported run without a generator answers as the run did: labels by records, and candidates of preferences."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import in_process
import pytest
from builders import run_config
from planted_preferences import ASKED, PREFERENCE, preferences

from hydra_ray.adapt import own_model
from hydra_ray.adapt.label_model import read_label_model
from hydra_ray.adapt.own_labels import encoded_items, fit_own_users
from hydra_ray.adapt.own_model import read_own_model
from hydra_ray.commands.update import update_config
from hydra_ray.errors import InputError
from hydra_ray.forget.removal import forget_users
from hydra_ray.lamp.choices import Choice
from hydra_ray.rows import AnsweredQuery, AnsweredUser, LabelLogs, Probe, Query, User, UserLabelLogs
from hydra_ray.scorer.base.encoder import open_encoder
from hydra_ray.serving.export import export_run
from hydra_ray.serving.export_folder import read_export
from hydra_ray.serving.own_heads import OwnHeadScorer
from hydra_ray.serving.scorer import ServedScorer, load_scorer
from hydra_ray.stages.own_heads import LABELS, open_label_encoder
from hydra_ray.stages.plan import Plan
from hydra_ray.stages.run import personalize
from hydra_ray.stages.tables import read_rows, read_users

RUNS = ("classes", "ratings", "preferences")
PEOPLE = [*preferences(36, 8, 1, seed=0, is_new=False), *preferences(12, 5, 3, seed=1, is_new=True)]
STARS = {
    "name": "stars",
    "kind": "rating",
    "instruction": "How many stars?",
    "labels": ["1", "2", "3", "4", "5"],
}


def reviews(number: int) -> dict[str, Any]:
    """A critic who is strict or mild, with dated records."""
    texts = [f"the {('soup', 'bread', 'room')[place % 3]} was {'good' if place % 2 else 'bad'}" for place in range(8)]
    stars = [str(min(max(1 + 3 * (place % 2) + number % 2, 1), 5)) for place in range(8)]
    history = [
        {"id": f"r{place}", "input": text, "output": star, "date": 1_700_000_000 + place}
        for place, (text, star) in enumerate(zip(texts[:6], stars, strict=False))
    ]
    queries = [{"id": "q", "input": texts[7], "target": stars[7]}]
    return {"user_id": f"critic {number}", "is_new": number >= 12, "history": history, "queries": queries}


def settings_of(name: str, folder: Path) -> Mapping[str, Any]:
    if name == "classes":
        return {"lamp": {"task": "planted", "planted": {"num_train_users": 12, "num_new_users": 6, "num_records": 12}}}
    rows = PEOPLE if name == "preferences" else [*map(reviews, range(18))]
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = PREFERENCE.model_dump(exclude_defaults=True) if name == "preferences" else STARS
    return {"lamp": {"task": task, "planted": None, "users_files": [str(file)]}}


@pytest.fixture(scope="module", autouse=True)
def exactly() -> Iterator[None]:
    """Encoders compute in float32, without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydra_ray.scorer.base.encoder.has_fast_bfloat16", lambda _: False)
        open_encoder.cache_clear()  # those of other modules have weights in bfloat16
        in_process.install(patch)
        yield


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """A finished run without a generator. Own heads do not count in that of ratings."""
    folder = tmp_path_factory.mktemp(request.param)
    config = run_config(
        str(folder / "root"), generator={"engine": "none", "model": ""}, **settings_of(request.param, folder)
    )
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "ratings":
            patch.setattr(own_model.PredictedGain, "is_above_zero", False)
        yield personalize(config)


@pytest.fixture(scope="module")
def folder(run: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export_run(run, str(tmp_path_factory.mktemp("export") / "export")).folder)


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ServedScorer:
    return load_scorer(folder)


def asked_of(plan: Plan) -> Iterator[tuple[User, Query, LabelLogs, AnsweredQuery, AnsweredUser]]:
    """Each query of an evaluated user, with what the run computed of it."""
    for bucket in plan.users.buckets:
        labels = read_rows(plan.stage("adapter.codes"), LABELS, bucket, UserLabelLogs)
        answered = read_rows(plan.answers, "answers", bucket, AnsweredUser)
        for user in read_users(plan, bucket):
            if user.is_evaluated():
                logs = {each.query_id: each for each in labels[user.user_id].queries}
                answers = {each.query_id: each for each in answered[user.user_id].queries}
                for query in user.queries:
                    yield user, query, logs[query.query_id], answers[query.query_id], answered[user.user_id]


def request_of(plan: Plan, query: Query) -> tuple[str, tuple[str, ...]]:
    """The query and the candidates as a caller has them."""
    if plan.task.kind != "preference":
        return query.input, ()
    choice = Choice.of_text(query.input)
    return choice.asked, choice.candidates


def test_scores_and_choices_are_those_of_the_run(run: Plan, scorer: ServedScorer):
    rows = list(asked_of(run))
    assert len(rows) >= 6
    for user, query, logs, answered, answers in rows:
        found = scorer.score(user.user_id, *request_of(run, query))
        expected = logs.by_own if answered.choice == "hydra_personal" else logs.by_records
        assert [*found.by_answer.values()] == pytest.approx(expected, abs=1e-6)
        assert found.choice == next(each.value for each in answered.answers if each.system == "hydra")
        assert found.head == answers.adapter_head
        chosen = scorer.choose(user.user_id, *request_of(run, query))
        assert (chosen.answer, chosen.system) == (found.choice, answered.choice)
        assert (chosen.reason, chosen.by_answer) == (answered.reason, found.by_answer)
        assert scorer.prompts(user.user_id, query.input) == []


def test_own_heads_count_in_some_of_the_runs(run: Plan):
    (choice,) = {answered.choice for *_, answered, _ in asked_of(run)}
    assert choice == ("hydra_shared" if run.task.kind == "rating" else "hydra_personal")


def test_an_unknown_user_is_scored_by_the_records_that_are_given(run: Plan, scorer: ServedScorer):
    user, query, *_ = next(asked_of(run))
    asked, candidates = request_of(run, query)
    found = scorer.score("nobody", asked, candidates, history=user.history)
    assert found.head == "shared"
    assert found.choice in found.by_answer
    assert set(found.by_answer) == set(scorer.score("nobody", asked, candidates).by_answer)


def test_the_export_has_no_generator_nor_what_chooses_its_drafts(folder: Path, scorer: ServedScorer):
    assert not {"reranker", "adapter", "retriever"} & {path.name for path in folder.iterdir()}
    with pytest.raises(InputError, match="has no generator"):
        scorer.choose_records("nobody", "a query")
    card = (folder / "README.md").read_text()
    assert "without a generator" in card or "candidates that a query brings" in card or "by records alone" in card
    assert "black-box generator" not in card


@pytest.mark.parametrize("run", ["preferences"], indirect=True)
def test_candidates_are_texts_and_count_once(scorer: ServedScorer):
    user = PEOPLE[-1]["user_id"]
    pair = PEOPLE[-1]["queries"][0]["candidates"]
    assert scorer.score(user, ASKED, [*pair, f" {pair[0]} "]) == scorer.score(user, ASKED, pair)
    assert scorer.score(user, ASKED).choice is None
    assert scorer.score(user, ASKED, pair[:1]).choice == pair[0]
    talk = [[{"role": "user", "content": ASKED}, {"role": "assistant", "content": each}] for each in pair]
    assert scorer.score(user, ASKED, talk) == scorer.score(user, ASKED, pair)
    with pytest.raises(InputError, match="candidate 0 is a Probe"):
        scorer.score(user, ASKED, [Probe(record_id="1", answer=None, quality=None)])  # pyright: ignore[reportArgumentType]


def records_of(plan: Plan, user: User) -> list[dict[str, Any]]:
    """A user's records as in users' files."""
    if plan.task.kind != "preference":
        return [{"input": each.input, "output": each.output, "date": each.date} for each in user.history]
    rows = ((each, Choice.of_text(each.input)) for each in user.history)
    return [
        {"input": choice.asked, "chosen": each.output, "rejected": sorted({*choice.candidates} - {each.output})}
        for each, choice in rows
    ]


def fitted(plan: Plan, user: User) -> list[float]:
    """Log probabilities of a user's one query by an own head that is fitted to the whole history."""
    labels, model = read_label_model(plan.labeller.folder), read_own_model(plan.own_model.folder)
    users = [replace(user, is_new=True)]
    vectors = encoded_items(plan.task, users, open_label_encoder(plan))
    (row,) = fit_own_users(plan.task, users, labels, model, vectors).rows
    logs = next(each for each in row.queries if not each.query_id.startswith("record:"))
    return list(logs.by_own if model.is_on else logs.by_records)


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_learned_counts_as_if_the_history_had_been_so_from_the_beginning(
    run: Plan, folder: Path, is_known: bool
):
    users = [user for user, *_ in asked_of(run)]
    user, other = users[0], users[-1]
    query = user.queries[0]
    request = request_of(run, query)
    scorer = load_scorer(folder)
    name = user.user_id if is_known else "someone new"
    before = scorer.score(name, *request)
    new = records_of(run, other)
    scorer.learn(name, new[:2])
    scorer.learn(name, new[1:])
    added = {replace(each, record_id=""): replace(each, record_id=f"other {each.record_id}") for each in other.history}
    history = (*(user.history if is_known else ()), *added.values())
    whole = replace(user, user_id=name, history=history, queries=(query,))
    found = scorer.score(name, *request)
    assert [*found.by_answer.values()] == pytest.approx(fitted(run, whole), abs=1e-6)
    assert found.by_answer != before.by_answer
    assert len(scorer.history_of(name)) == len(whole.history)
    assert load_scorer(folder).score(name, *request) == before


def test_what_is_learned_can_be_withdrawn_and_counts_once(run: Plan, folder: Path):
    user, query, *_ = next(asked_of(run))
    scorer, request = load_scorer(folder), request_of(run, query)
    before = scorer.score(user.user_id, *request)
    fields = {"input": "a word", "output": run.task.labels[0]} if run.task.labels else {"chosen": "a", "rejected": "b"}
    for _ in range(2):
        scorer.learn(user.user_id, [fields])
        assert len(scorer.history_of(user.user_id)) == len(user.history) + 1
    scorer.learn(user.user_id, [{**fields, "op": "delete"}])
    assert scorer.score(user.user_id, *request).by_answer == pytest.approx(before.by_answer, abs=1e-6)
    scorer.learn(user.user_id, user.history)  # all of which is known
    assert scorer.history_of(user.user_id) == user.history
    named = {**fields, "id": user.history[0].record_id}
    with pytest.raises(InputError, match="is there already with another content"):
        scorer.learn(user.user_id, [named])
    scorer.learn(user.user_id, [{**named, "op": "replace"}])
    assert len(scorer.history_of(user.user_id)) == len(user.history)
    with pytest.raises(InputError, match="cannot be used"):
        scorer.learn(user.user_id, [{"output": ""}])


def test_of_more_users_than_are_kept_the_least_recent_is_lost(run: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hydra_ray.serving.known.MAX_LEARNED_USERS", 2)
    user = next(user for user, *_ in asked_of(run))
    scorer = load_scorer(folder)
    for name in ("first", "second"):
        scorer.learn(name, records_of(run, user))
    scorer.history_of("first")
    scorer.learn("third", records_of(run, user))
    sizes = [len(scorer.history_of(name)) for name in ("first", "second", "third")]
    assert sizes == [len(user.history), 0, len(user.history)]


@pytest.fixture(scope="module")
def today(run: Plan, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, User]:
    """An update of the run after it was exported, in which a user comes back and another one is new; and whom it
    resembles."""
    users = [user for user, *_ in asked_of(run)]
    back, other = users[0], users[-1]
    queries = [{"id": "today", **query_of(run, other.queries[0])}]
    rows = [
        {"user_id": back.user_id, "history": records_of(run, other)[:2], "queries": queries},
        {"user_id": "someone new", "history": records_of(run, back), "queries": queries},
    ]
    file = tmp_path_factory.mktemp("today") / "today.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return personalize(update_config(run.run_folder, [str(file)])), back


def query_of(plan: Plan, query: Query) -> dict[str, Any]:
    """A query as in users' files."""
    asked, candidates = request_of(plan, query)
    return {"input": asked, **({"candidates": candidates} if candidates else {})}


def test_a_pull_brings_the_newest_heads_and_histories(run: Plan, folder: Path, today: tuple[Plan, User]):
    update, back = today
    scorer, learned = load_scorer(folder), load_scorer(folder)
    rows = list(asked_of(update))
    assert len(rows) == 2
    before = {user.user_id: scorer.score(user.user_id, *request_of(run, query)) for user, query, *_ in rows}
    learned.learn(back.user_id, rows[0][0].history)
    assert scorer.pull() == learned.pull(run.run_folder) == (update.config.run,)
    assert scorer.pull() == (update.config.run,)  # nothing is new
    for user, query, logs, answered, _ in rows:
        found = scorer.score(user.user_id, *request_of(run, query))
        expected = logs.by_own if answered.choice == "hydra_personal" else logs.by_records
        assert [*found.by_answer.values()] == pytest.approx(expected, abs=1e-5)
        assert found.by_answer != before[user.user_id].by_answer
        assert scorer.history_of(user.user_id) == user.history
    assert learned.history_of(back.user_id) == scorer.history_of(back.user_id)
    assert len(load_scorer(folder).history_of(back.user_id)) == len(back.history)


def test_a_request_during_a_pull_is_answered_by_one_state(
    run: Plan, folder: Path, today: tuple[Plan, User], monkeypatch: pytest.MonkeyPatch
):
    update, back = today
    scorer, request = load_scorer(folder), request_of(run, back.queries[0])
    before, logs_of, during = scorer.score(back.user_id, *request), OwnHeadScorer.logs_of, []

    def pulling(own: OwnHeadScorer, *arguments: Any) -> UserLabelLogs:
        during.append(scorer.pull())
        return logs_of(own, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(OwnHeadScorer, "logs_of", pulling)
        assert scorer.score(back.user_id, *request) == before
    assert during == [(update.config.run,)]
    assert scorer.score(back.user_id, *request) != before


def test_whoever_is_forgotten_is_unknown_after_a_pull(run: Plan, folder: Path, today: tuple[Plan, User]):
    users = {user.user_id: user for user, *_ in asked_of(run)}
    _, gone, stays, *_ = users.values()
    scorer, request = load_scorer(folder), request_of(run, gone.queries[0])
    scorer.learn(gone.user_id, records_of(run, stays)[:1])
    forget_users(run.config.storage.root, [gone.user_id, "someone new"])
    for _ in range(2):
        scorer.pull()
        for name in (gone.user_id, "someone new"):
            assert scorer.score(name, *request).head == "shared"
            assert scorer.history_of(name) == ()
        scorer.learn(gone.user_id, records_of(run, stays)[:1])  # nor is anything learned of them
    assert scorer.history_of(stays.user_id) == stays.history


def test_a_run_that_was_not_exported_is_not_pulled(run: Plan, folder: Path, tmp_path: Path):
    scorer = load_scorer(folder)
    with pytest.raises(InputError, match="no run at"):
        scorer.pull(tmp_path / "runs" / "other")
    exported = read_export(str(folder))
    fingerprints = {**exported.fingerprints, "adapter.codes": "0" * 16}
    other = ServedScorer(replace(exported, fingerprints=fingerprints, run_folder=None))
    with pytest.raises(InputError, match="is not the run that was exported"):
        other.pull(run.run_folder)
    with pytest.raises(InputError, match="give the run's folder"):
        other.pull()


def test_many_threads_are_answered_as_one_is(run: Plan, folder: Path):
    scorer = load_scorer(folder)
    asked = [(user, request_of(run, query)) for user, query, *_ in asked_of(run)]
    expected = [load_scorer(folder).choose(user.user_id, *request) for user, request in asked]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(scorer.choose, user.user_id, *request) for user, request in asked * 3]
        taught = [pool.submit(scorer.learn, f"new {n}", user.history) for n, (user, _) in enumerate(asked)]
        for answer, alone in zip(answers, expected * 3, strict=True):
            found = answer.result()
            # Where its numbers lie in memory changes the rounding of a product.
            assert found.by_answer == pytest.approx(alone.by_answer, rel=1e-6)
            assert replace(found, by_answer={}) == replace(alone, by_answer={})
        assert [each.result() for each in taught] == [None] * len(asked)
    assert all(scorer.history_of(f"new {n}") for n in range(len(asked)))


def test_scoring_imports_no_ray(folder: Path, run: Plan):
    program = (
        "import sys; from hydra_ray import load_scorer; "
        f"print(load_scorer({str(folder)!r}).score('nobody', 'a query', ['a', 'b']).head); "
        "print([name for name in ('ray', 'vllm', 'deepspeed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["shared", "[]"]
