import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from builders import LETTERS, encode, examples_of, label_model_of, rows_of, run_config, user

from hydra_ray.adapt import draft_features, label_features
from hydra_ray.adapt.adapter_examples import Drafted, adapter_examples, handcrafted_names
from hydra_ray.adapt.label_model import fit_label_model
from hydra_ray.config import RunConfig, Task
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import VARIANTS, Group, JudgedDraft, Judgement, Record, Request, User, UserExamples

PLANTED, HEADLINES = TASKS["planted"], TASKS["LaMP_4"]
CONFIG = run_config()
TRAINING = user(8, is_new=False)
CROSS_FITTED = replace(TRAINING, fold=0)


def copying(request: Request) -> list[str]:
    """Examples are copied; without any the answer is comedy."""
    examples = [message.content for message in request.messages if message.role == "assistant"]
    return [examples[-1] if examples else "comedy"] * request.num_samples


def examples(someone: User, task: Task = PLANTED, write=copying, config: RunConfig = CONFIG) -> UserExamples:
    (row,) = examples_of(rows_of(someone, write, task, config), task=task, config=config)
    return row


def plain(group: Group, name: str, task: Task = PLANTED) -> dict[str, float]:
    """One named feature by candidate."""
    place = handcrafted_names(task, CONFIG).index(name)
    return {candidate.candidate_id: candidate.plain[place] for candidate in group.candidates}


@pytest.mark.parametrize("task", [PLANTED, TASKS["LaMP_3"], HEADLINES])
def test_the_named_features_are_those_of_the_kind_of_task(task: Task):
    names = handcrafted_names(task, CONFIG)
    expected = (
        label_features.handcrafted_names(task, CONFIG.drafts, has_own_heads=True)
        if task.is_closed
        else draft_features.handcrafted_names(CONFIG.drafts)
    )
    assert names == expected
    assert len(set(names)) == len(names)


def test_all_labels_are_candidates_of_a_closed_task():
    for group in examples(user(8)).groups:
        assert [candidate.candidate_id for candidate in group.candidates] == list(PLANTED.labels)
        assert [candidate.text for candidate in group.candidates] == list(PLANTED.labels)


def test_on_demand_only_the_labels_that_were_drafted_are_candidates():
    config = run_config(drafts={"candidates": "drafts"})
    everything = {group.group_id: group for group in examples(user(8), config=CONFIG).groups}
    for group in examples(user(8), config=config).groups:
        labels = [candidate.candidate_id for candidate in group.candidates]
        assert 0 < len(labels) < len(PLANTED.labels)
        by_label = {each.candidate_id: each for each in everything[group.group_id].candidates}
        assert list(group.candidates) == [by_label[label] for label in labels]


def test_a_cut_label_is_no_label():
    long = ("war and love: a story", "comedy")
    task = PLANTED.model_copy(update={"labels": long, "max_tokens": 32})
    config = run_config(drafts={"candidates": "drafts"})
    someone = replace(
        user(0),
        history=tuple(Record(record_id=str(n), input=f"text {n}", output=long[0]) for n in range(3)),
        queries=(replace(user(0).queries[0], target="comedy"),),
    )
    for group in examples(someone, task, lambda request: [long[0]], config).groups:
        assert [candidate.candidate_id for candidate in group.candidates] == [long[0]]


def test_the_drafts_are_the_candidates_of_a_text_task():
    def write(request: Request) -> list[str]:
        return ["one", "two", "one"] if request.temperature else ["zero"]

    for group in examples(user(8), HEADLINES, write).groups:
        assert [candidate.candidate_id for candidate in group.candidates] == ["zero", "one", "two"]
        shares = plain(group, "vote_share", HEADLINES)
        assert shares["one"] > shares["two"] > shares["zero"]


def test_plain_features_of_drafts_are_standardized_within_their_query():
    def write(request: Request) -> list[str]:
        return ["one day", "two cats", "one day"] if request.temperature else ["zero"]

    for group in examples(user(8), HEADLINES, write).groups:
        columns_PN = np.array([candidate.plain for candidate in group.candidates]).T
        assert columns_PN.mean(axis=1) == pytest.approx(np.zeros(len(columns_PN)))
        deviations_P = columns_PN.std(axis=1)
        assert deviations_P[deviations_P > 1e-9] == pytest.approx(1)
        # The votes are 0, 2 and 1 of 3: one standard deviation is the root of 2/27.
        shares = [0.0, 2 / 3, 1 / 3]
        expected = {
            text: (each - 1 / 3) / math.sqrt(2 / 27)
            for text, each in zip(("zero", "one day", "two cats"), shares, strict=True)
        }
        assert plain(group, "vote_share", HEADLINES) == pytest.approx(expected)


def test_a_query_without_an_understood_draft_is_no_group_of_a_text_task():
    assert examples(user(8), HEADLINES, lambda request: [""] * request.num_samples).groups == ()


@pytest.mark.parametrize("someone", [user(8), CROSS_FITTED])
def test_an_evaluated_query_is_a_group_for_each_variant_and_any_other_for_its_own(someone: User):
    groups = examples(someone).groups
    own = [group for group in groups if not group.is_pseudo]
    assert [(group.group_id, group.variant) for group in own] == [(f"q/{variant}", variant) for variant in VARIANTS]
    pseudo = [group for group in groups if group.is_pseudo]
    assert len(pseudo) == CONFIG.drafts.num_pseudo_queries
    assert {group.variant for group in pseudo} == {"personal"}
    assert {group.variant for group in examples(TRAINING).groups} == {"personal"}


def test_qualities_are_those_of_the_candidates_and_a_new_users_own_query_has_none():
    for someone in (user(8), TRAINING, CROSS_FITTED):
        targets = {f"record:{record.record_id}": record.output for record in someone.history}
        targets |= {} if someone.is_new else {"q": "comedy"}
        for group in examples(someone).groups:
            target = targets.get(group.query_id)
            for each in group.candidates:
                assert each.quality == (None if target is None else quality(PLANTED, each.candidate_id, target))


def published(**drafts: object) -> RunConfig:
    adapter = {"base": CONFIG.adapter.base.model_dump(), "labels": "published", "has_plain_features": False}
    return run_config(adapter=adapter, answers={"is_gated": False}, drafts=drafts)


def test_published_labels_of_a_closed_task_are_1_for_the_right_answer_alone():
    task = TASKS["LaMP_3"]
    rated = tuple(Record(record_id=str(n), input=f"text {n}", output=str(1 + n % 5)) for n in range(6))
    someone = replace(TRAINING, history=rated, queries=(replace(TRAINING.queries[0], target="4"),))
    targets = {"q": "4"} | {f"record:{record.record_id}": record.output for record in rated}
    found = examples(someone, task, config=published()).groups
    assert {group.query_id for group in found if not group.is_pseudo} == {"q"}
    for group in found:
        for each in group.candidates:
            assert each.quality == (1.0 if each.candidate_id == targets[group.query_id] else 0.0)


@pytest.mark.parametrize("someone", [TRAINING, user(8), CROSS_FITTED], ids=["training", "new", "cross-fitted"])
def test_published_labels_of_a_text_task_are_1_for_the_target_which_no_evaluated_query_has(someone: User):
    def write(request: Request) -> list[str]:
        return ["one", "two", "one"] if request.temperature else ["zero"]

    targets = {f"record:{record.record_id}": record.output for record in someone.history} | {"q": "comedy"}
    drafts = {"zero": 0.0, "one": 0.0, "two": 0.0}
    is_evaluated = someone.is_evaluated()
    for group in examples(someone, HEADLINES, write, published()).groups:
        found = {each.candidate_id: each.quality for each in group.candidates}
        if group.is_pseudo or not is_evaluated:
            assert found == {**drafts, targets[group.query_id]: 1.0}
        else:
            assert found == dict.fromkeys(drafts)


def test_a_draft_that_is_the_target_is_one_candidate():
    groups = examples(user(8), HEADLINES, lambda request: ["comedy"] * request.num_samples, published()).groups
    (group, *_) = [each for each in groups if each.is_pseudo and each.query_id == "record:0"]
    assert [(each.candidate_id, each.quality) for each in group.candidates] == [("comedy", 1.0)]


def test_a_target_is_no_candidate_where_nothing_was_drafted():
    assert examples(user(8), HEADLINES, lambda request: [""] * request.num_samples, published()).groups == ()


def test_a_pseudo_querys_own_record_does_not_count_in_its_features():
    someone = user(6)  # two records each of comedy, romance and fantasy
    for group in examples(someone).groups:
        if group.is_pseudo:
            target = next(r.output for r in someone.history if f"record:{r.record_id}" == group.query_id)
            assert plain(group, "history_share")[target] == pytest.approx(1 / 5)


def test_the_label_model_scores_the_querys_text_alone_and_given_the_records():
    rows = rows_of(user(8), copying)
    others = [replace(user(9), user_id=f"other {number}") for number in range(20)]
    label_model = fit_label_model(PLANTED, others, encode)
    drafted = Drafted(user=rows.user, probed=rows.probed, scored=rows.scored, drafted=rows.drafted)
    (row,) = adapter_examples([drafted], PLANTED, CONFIG, encode, label_model)
    for group in row.groups:
        own_id = group.query_id.removeprefix("record:") if group.is_pseudo else None
        eligible = [record for record in rows.user.history if record.record_id != own_id]
        texts = [group.query, *(record.input for record in rows.user.history)]
        own = label_model.labelled(PLANTED, rows.user, texts, dict(zip(texts, encode(texts), strict=True)))
        labelled = own.labelled(group.query, eligible)
        assert list(plain(group, "log_p_text").values()) == pytest.approx(labelled.by_text_L.tolist())
        expected = labelled.by_user_L.tolist()
        assert list(plain(group, "log_p_own").values()) == pytest.approx(expected)
        assert len(set(expected)) > 1


def test_without_plain_features_there_are_none_and_nothing_else_differs():
    config = run_config(adapter={"has_plain_features": False, "base": CONFIG.adapter.base.model_dump()})
    for task in (PLANTED, HEADLINES):
        assert handcrafted_names(task, config) == ()
        bare, full = examples(user(8), task, config=config), examples(user(8), task)
        assert bare.groups == tuple(
            replace(group, candidates=tuple(replace(each, plain=()) for each in group.candidates))
            for group in full.groups
        )


def test_histories_are_mean_vectors_without_the_record_of_the_query():
    someone = user(5)
    found = examples(someone)
    assert {group.is_pseudo for group in found.groups} == {True, False}
    for group, history in zip(found.groups, np.reshape(found.history, (len(found.groups), -1)), strict=True):
        records = [record for record in someone.history if f"record:{record.record_id}" != group.query_id]
        assert len(records) == 5 - group.is_pseudo
        inputs = encode([record.input for record in records]).mean(axis=0)
        outputs = encode([record.output for record in records]).mean(axis=0)
        np.testing.assert_allclose(history, [*inputs, *outputs], rtol=1e-6)


def judged(*qualities: float, features: Sequence[str] = (), is_preference: bool = True) -> Judgement:
    """Drafts whose features are their places plus the place of the feature."""
    drafts = tuple(
        JudgedDraft(
            text=f"draft {place}", plain=tuple(float(place + n) for n in range(len(features))), quality=qualities[place]
        )
        for place in range(len(qualities))
    )
    return Judgement(
        judgement_id="judged", input="asked", is_preference=is_preference, features=tuple(features), drafts=drafts
    )


def naming(request: Request) -> list[str]:
    return ["comedy", "romance it is", "what"] if request.temperature else ["fantasy"]


def judged_group(someone: User, judgement: Judgement) -> Group:
    """The group of a judgement; that of each query is as without it."""
    rows = replace(rows_of(someone, naming, HEADLINES, CONFIG), judgements=(judgement,))
    (found,) = examples_of(rows, task=HEADLINES, config=CONFIG)
    without = examples(someone, HEADLINES, naming)
    assert found.groups[:-1] == without.groups
    assert found.history[: len(without.history)] == without.history
    return found.groups[-1]


def test_a_judgement_is_the_group_of_one_more_pseudo_query():
    names = handcrafted_names(HEADLINES, CONFIG)
    group = judged_group(user(8), judged(0.2, 0.7, features=names, is_preference=False))
    assert (group.query_id, group.query, group.variant, group.is_pseudo) == ("judged", "asked", "personal", True)
    assert [(each.text, each.quality) for each in group.candidates] == [("draft 0", 0.2), ("draft 1", 0.7)]
    assert [each.plain for each in group.candidates] == [
        tuple(float(place + n) for n in range(len(names))) for place in range(2)
    ]


def test_features_of_a_judgement_are_found_by_name():
    names = handcrafted_names(HEADLINES, CONFIG)
    group = judged_group(user(8), judged(0.0, 1.0, features=("of former times", *reversed(names[:-1]))))
    for place, candidate in enumerate(group.candidates):
        expected = [float(place + len(names) - 1 - n) for n in range(len(names) - 1)]
        assert candidate.plain == (*expected, 0.0)


def test_a_preference_weighs_as_much_as_the_metric_tells_the_users_drafts_apart():
    someone = user(8)
    leads: list[float] = []
    for each in examples(someone, HEADLINES, naming).groups:
        if each.is_pseudo:
            qualities = sorted(float(candidate.quality or 0) for candidate in each.candidates)
            leads.append(qualities[-1] - sum(qualities[:-1]) / len(qualities[:-1]))
    lead = sum(leads) / len(leads)
    assert lead > 0
    found = judged_group(someone, judged(0.0, 1.0, 0.0))
    assert [each.quality for each in found.candidates] == pytest.approx([0.0, lead, 0.0])
    nothing_told = judged_group(replace(someone, history=()), judged(0.0, 1.0, 1.0))
    assert [each.quality for each in nothing_told.candidates] == [0.0, 0.15, 0.15]


def test_the_history_of_a_judgement_is_without_the_record_of_its_own_text():
    someone = user(4)
    judgement = replace(judged(0.0, 1.0), judgement_id=someone.history[-1].record_id)
    rows = replace(rows_of(someone, copying, HEADLINES, CONFIG), judgements=(judgement,))
    (found,) = examples_of(rows, task=HEADLINES, config=CONFIG)
    width = 2 * LETTERS.n_features
    expected = [
        *encode([record.input for record in someone.history[:-1]]).mean(axis=0),
        *encode([record.output for record in someone.history[:-1]]).mean(axis=0),
    ]
    np.testing.assert_allclose(found.history[-width:], expected, rtol=1e-6)


def test_without_records_a_history_has_the_same_width():
    found = examples(user(0))
    assert found.history == (0.0,) * len(found.groups) * 2 * LETTERS.n_features
    nobody = replace(user(0), queries=())
    assert examples(nobody) == UserExamples(user_id="u", is_new=True, fold=None, history=(), groups=())


@pytest.mark.parametrize("task", [PLANTED, HEADLINES])
def test_a_user_without_queries_teaches_by_the_history_alone(task: Task):
    groups = examples(replace(user(8), queries=()), task).groups
    assert len(groups) == CONFIG.drafts.num_pseudo_queries
    assert all(group.is_pseudo for group in groups)


def test_users_are_encoded_in_one_call_and_do_not_influence_each_other():
    calls: list[Sequence[str]] = []

    def counted(wanted: Sequence[str]) -> np.ndarray:
        calls.append(wanted)
        return encode(wanted)

    people = [replace(user(n), user_id=f"user {n}") for n in (0, 3, 8)]
    rows = [rows_of(someone, copying) for someone in people]
    drafted = [Drafted(user=r.user, probed=r.probed, scored=r.scored, drafted=r.drafted) for r in rows]
    together = list(adapter_examples(drafted, PLANTED, CONFIG, counted, label_model_of(PLANTED)))
    assert together == [examples(someone) for someone in people]
    assert len(calls) == 1
    assert len(set(calls[0])) == len(calls[0])
