from dataclasses import replace
from typing import Any

import pytest
from builders import Rows, adapter_scores, examples_of, rows_of, user

from hydra_ray.adapt.answers import Scored, answer_user
from hydra_ray.adapt.gate import GATED, Gate
from hydra_ray.config import Task
from hydra_ray.evaluate.baselines import consensus_answer, majority_answer, near_answer, vote_answer
from hydra_ray.evaluate.evaluation_data import collect_evaluation_data
from hydra_ray.evaluate.systems import HYDRA, PROMPT_SYSTEMS, VARIANTS
from hydra_ray.generate.prompts import PROFILE_TOKENS
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import AnsweredQuery, AnsweredUser, Request, ScoredUser

PLANTED, HEADLINES = TASKS["planted"], TASKS["LaMP_4"]
EVERYTHING = {*PROMPT_SYSTEMS, "majority", "knn", "vote", *VARIANTS, HYDRA}
PREFERRED = {"personal": "comedy", "shared": "romance", "shuffled": "classic", "routed": "music"}


def write(request: Request) -> list[str]:
    """Different answers to a question without records, with one and with more; samples differ."""
    if request.temperature:
        return ["violence", "nature", "violence"]
    return [("fantasy", "mystery", "politics")[min(len(request.messages) // 2 - 1, 2)]]


def gate(choice: str) -> Gate:
    return Gate(choice=choice, reason="told so")


def answered_user(
    rows: Rows,
    task: Task = PLANTED,
    preferred: dict[str, str] = PREFERRED,
    adapter: ScoredUser | None = None,
    by: Gate | None = None,
) -> AnsweredUser:
    """The user's row, by the scores `adapter` or by heads that prefer the candidates `preferred`."""
    (examples,) = examples_of(rows, task=task)
    scored = adapter or adapter_scores(rows.user, examples, preferred)
    row = Scored(user=rows.user, probed=rows.probed, drafted=rows.drafted, reranker=rows.scored, adapter=scored)
    return answer_user(row, task, by)


def answered(
    rows: Rows,
    task: Task = PLANTED,
    preferred: dict[str, str] = PREFERRED,
    adapter: ScoredUser | None = None,
    by: Gate | None = None,
) -> tuple[AnsweredQuery, dict[str, str | None]]:
    """The own query's row, and its answers by system."""
    found = answered_user(rows, task, preferred, adapter, by)
    assert (found.user_id, found.num_history) == ("u", len(rows.user.history))
    assert (found.reranker_head, found.adapter_head) == ("shared", adapter.head if adapter else "lowrank-16")
    (query,) = found.queries
    assert len({each.system for each in query.answers}) == len(query.answers)
    return query, {each.system: each.value for each in query.answers}


ROWS = rows_of(user(8), write)


def test_every_system_answers_every_evaluated_query_and_no_other():
    _, found = answered(ROWS)
    assert set(found) == EVERYTHING
    assert all(found.values())


def test_a_prompt_answers_for_the_system_that_is_named_after_it():
    _, found = answered(ROWS)
    assert {found[name] for name in ("zero_shot", "pag_0")} == {"fantasy"}
    assert {found[name] for name in ("rag_1", "pag_1")} == {"mystery"}
    assert {found[name] for name in ("rag_2", "rag_k", "random_k", "pag_k", "reranker_only")} == {"politics"}


def test_counting_systems_count_what_is_there_anyway():
    _, found = answered(ROWS)
    history = {record.record_id: record.output for record in ROWS.user.history}
    retrieved = ROWS.probed.queries[0].retrieved
    assert found["majority"] == majority_answer(list(history.values()))
    assert found["knn"] == near_answer([history[r.record_id] for r in retrieved], [r.score for r in retrieved])
    assert found["vote"] == vote_answer(["violence", "nature", "violence"]) == "violence"


def test_each_kind_of_head_chooses_for_its_own_system():
    _, found = answered(ROWS)
    assert found["hydra_personal"] == found["adapter_only"] == "comedy"
    assert (found["hydra_shared"], found["hydra_routed"], found["hydra_shuffled"]) == ("romance", "music", "classic")


@pytest.mark.parametrize(("system", "variant"), [("adapter_only", "retrieved"), ("hydra_personal", "personal")])
def test_adapter_only_is_the_own_heads_choice_among_what_needs_no_reranker(system: str, variant: str):
    (examples,) = examples_of(ROWS)
    scored = adapter_scores(ROWS.user, examples, PREFERRED)
    groups = tuple(
        replace(
            group,
            candidates=tuple(
                replace(each, personal=float(each.candidate_id == "history")) for each in group.candidates
            ),
        )
        if group.variant == variant
        else group
        for group in scored.groups
    )
    _, found = answered(ROWS, adapter=replace(scored, groups=groups))
    others = {"adapter_only", "hydra_personal"} - {system}
    assert (found[system], *(found[other] for other in others)) == ("history", "comedy")


@pytest.mark.parametrize("name", GATED)
def test_hydras_answer_is_that_of_the_system_that_the_gate_chooses(name: str):
    query, found = answered(ROWS, by=gate(name))
    assert (query.choice, query.reason, found[HYDRA]) == (name, "told so", found[name])


def test_without_a_gate_hydra_is_the_own_heads():
    query, found = answered(ROWS)
    assert (query.choice, found[HYDRA]) == ("hydra_personal", found["hydra_personal"])
    assert query.reason.startswith("no gate")


def test_what_cannot_be_answered_is_an_error_and_never_empty():
    rows = rows_of(user(0), lambda request: ["no such label"] * request.num_samples)
    nothing = ScoredUser(user_id="u", is_new=True, head="shared", groups=())
    query, found = answered(rows, adapter=nothing, by=gate("zero_shot"))
    assert set(found) == EVERYTHING
    for each in query.answers:
        assert each.value is None
        assert each.error
    assert (query.pool, query.resampled) == ((), ())
    errors = {each.system: each.error for each in query.answers}
    assert errors["zero_shot"] == errors["vote"] == "no label in the answer"
    assert errors["majority"] == errors["pag_k"] == "nothing to answer from"
    assert query.reason == "zero_shot has no answer"


def test_a_system_that_failed_does_not_answer_for_hydra():
    def without_zero_shot(request: Request) -> list[str]:
        return ["?"] if len(request.messages) == 2 and not request.temperature else write(request)

    query, found = answered(rows_of(user(8), without_zero_shot), by=gate("zero_shot"))
    assert found["zero_shot"] is None
    assert found[HYDRA] == found[query.choice] is not None
    assert query.reason == "zero_shot has no answer"


@pytest.mark.parametrize("num_records", [0, 8])
def test_without_a_profile_the_systems_that_need_one_fail_and_all_others_answer(num_records: int):
    rows = rows_of(user(num_records), lambda request: [""] if request.max_tokens == PROFILE_TOKENS else write(request))
    _, found = answered(rows)
    assert set(found) == EVERYTHING
    counting_records = set() if num_records else {"majority", "knn"}
    assert {name for name, value in found.items() if value is None} == {"pag_0", "pag_1", "pag_k"} | counting_records


def test_users_with_and_without_a_profile_are_evaluated_together():
    with_profile, without = user(8), replace(user(0), user_id="cold")
    rows = {someone.user_id: rows_of(someone, write) for someone in (with_profile, without)}
    evaluation = collect_evaluation_data(PLANTED, [(each.user, answered_user(each)) for each in rows.values()])
    assert len(evaluation.first_query) == 2
    assert {name for name in evaluation.systems if evaluation.failed[name]} == {
        "pag_0",
        "pag_1",
        "pag_k",
        "majority",
        "knn",
    }


def test_the_pool_of_a_closed_task_is_the_drafts_and_resamples_the_rag_prompt():
    query, _ = answered(ROWS)
    assert query.pool == ("violence", "nature")
    assert query.resampled == ("violence", "nature", "violence")


def headlines(**answers: Any) -> tuple[AnsweredQuery, dict[str, str | None]]:
    def tell(request: Request) -> list[str]:
        return ["a b c", "a b d", "e"] if request.temperature else [f"{len(request.messages)} turns"]

    rows = rows_of(user(8), tell, HEADLINES)
    preferred = {"personal": "a b d", "shared": "e", "shuffled": "e", "routed": "e"}
    return answered(rows, HEADLINES, preferred, **answers)


def test_a_text_task_has_a_consensus_and_nothing_that_counts_labels():
    _, found = headlines()
    assert set(found) == {*PROMPT_SYSTEMS, "rag_cut", "knn", "vote", *VARIANTS, HYDRA}
    assert found["vote"] == consensus_answer(["a b c", "a b d", "e"]) == "a b c"


@pytest.mark.parametrize(("num_words", "expected"), [(1, "eight"), (2, "eight turns"), (5, "eight turns")])
def test_the_rag_answer_of_a_text_task_is_cut_to_as_many_words_as_half_the_outputs_have(num_words: int, expected: str):
    lengths = [num_words] * 5 + [num_words + 9] * 3
    history = [replace(each, output=" w" * n) for each, n in zip(user(8).history, lengths, strict=True)]
    rows = rows_of(replace(user(8), history=tuple(history)), lambda _: ["eight turns"], HEADLINES)
    _, found = answered(rows, HEADLINES, dict.fromkeys(PREFERRED, "eight turns"))
    assert (found["rag_k"], found["rag_cut"]) == ("eight turns", expected)


def test_the_nearest_record_of_a_text_task_answers_by_its_output():
    _, found = headlines()
    history = {record.record_id: record.output for record in ROWS.user.history}
    retrieved = ROWS.probed.queries[0].retrieved
    assert found["knn"] == near_answer([history[r.record_id] for r in retrieved], [r.score for r in retrieved])


def test_the_pool_of_a_text_task_is_what_the_own_heads_chose_among():
    query, found = headlines()
    assert {found["hydra_personal"], found["rag_k"], "a b c", "a b d", "e"} <= set(query.pool)
    assert len(set(query.pool)) == len(query.pool)
    assert query.resampled == ("a b c", "a b d", "e")


def test_only_what_is_understood_is_resampled():
    def partly(request: Request) -> list[str]:
        return ["violence", "?", "comedy"] if request.temperature else ["comedy"]

    query, found = answered(rows_of(user(8), partly))
    assert query.resampled == ("violence", "comedy")
    assert found["vote"] == "violence"
