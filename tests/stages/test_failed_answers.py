"""The third of the rules that no shortcut may break: nothing is learned from a failed answer, or answered with it."""

from dataclasses import replace

import pytest
from builders import Rows, completion, examples_of, rows_of, run_config, user

from hydra_ray.adapt.answers import Scored, answer_user
from hydra_ray.config import Task
from hydra_ray.evaluate.evaluation_data import collect_evaluation_data
from hydra_ray.generate.failures import FailureKind
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rerank.reranker_examples import reranker_examples
from hydra_ray.rows import CandidateScore, Completion, Request, ScoredGroup, ScoredUser, UserExamples

FILTERED = "comedy zzfiltered"
TASKS_OF_BOTH_KINDS = [TASKS["planted"], TASKS["LaMP_4"]]


def is_failed(request: Request) -> bool:
    """Every other request, and each of the user's profile."""
    return int(request.request_id, 16) % 2 == 0 or "profile" in request.messages[-1].content.lower()


def failing(kind: FailureKind):
    """Completions of which some failed: stopped by a filter with half an answer written, or never made."""

    def complete(request: Request, *texts: str) -> Completion:
        made = completion(request, *texts)
        if not is_failed(request):
            return made
        if kind == FailureKind.CONTENT_FILTER:
            cut = (replace(each, text=FILTERED, finish_reason="content_filter") for each in made.generations)
            return replace(made, generations=tuple(cut))
        return replace(made, generations=(), error=f"no answer: {kind}", failure=kind)

    return complete


@pytest.fixture(params=[FailureKind.CONTENT_FILTER, FailureKind.TIMEOUT])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FailureKind:
    """How some requests fail in `rows_of`."""
    monkeypatch.setattr("builders.completion", failing(request.param))
    return request.param


def written(request: Request) -> list[str]:
    return ["romance", "music", "comedy"][: request.num_samples]


def failed_probes(rows: Rows) -> set[tuple[str, str]]:
    return {
        (query.query_id, probe.record_id)
        for query in rows.probed.queries
        for probe in query.probes
        if probe.answer.error is not None
    }


def any_scores(examples: UserExamples) -> ScoredUser:
    """Scores by which each head prefers what comes first."""
    groups = tuple(
        ScoredGroup(
            group_id=group.group_id,
            query_id=group.query_id,
            variant=group.variant,
            is_pseudo=group.is_pseudo,
            candidates=tuple(
                CandidateScore(candidate_id=each.candidate_id, personal=-n, shared=-n, shuffled=-n, routed=-n)
                for n, each in enumerate(group.candidates)
            ),
        )
        for group in examples.groups
    )
    return ScoredUser(user_id=examples.user_id, is_new=examples.is_new, head="shared", groups=groups)


@pytest.mark.parametrize("task", TASKS_OF_BOTH_KINDS, ids=["closed", "text"])
def test_the_reranker_learns_from_exactly_the_probes_that_did_not_fail(task: Task, kind: FailureKind):
    rows = rows_of(user(8), written, task)
    failed = failed_probes(rows)
    known = {
        (group.query_id, candidate.candidate_id)
        for group in reranker_examples(rows.user, rows.probed, task, run_config()).groups
        for candidate in group.candidates
        if candidate.quality is not None
    }
    probed = {
        (query.query_id, probe.record_id) for query in rows.probed.queries if query.is_pseudo for probe in query.probes
    }
    assert failed & probed
    assert known == probed - failed


@pytest.mark.parametrize("task", TASKS_OF_BOTH_KINDS, ids=["closed", "text"])
def test_nothing_of_a_failed_answer_is_in_what_the_adapter_learns_or_chooses(task: Task, kind: FailureKind):
    rows = rows_of(user(8), written, task)
    assert any(draft.answer.error for query in rows.drafted.queries for draft in query.drafts)
    (examples,) = examples_of(rows, task=task)
    assert examples.groups
    assert "zzfiltered" not in str(examples)
    assert all(candidate.text for group in examples.groups for candidate in group.candidates)


def test_a_failed_profile_stands_in_no_prompt(kind: FailureKind):
    rows = rows_of(user(8), written)
    assert rows.profiled.error
    assert "zzfiltered" not in str([each.request for each in rows.asked])


@pytest.mark.parametrize("task", TASKS_OF_BOTH_KINDS, ids=["closed", "text"])
def test_a_system_whose_answer_failed_has_none_and_the_report_counts_it(task: Task, kind: FailureKind):
    someone = user(8)
    rows = rows_of(someone, written, task)
    (examples,) = examples_of(rows, task=task)
    row = Scored(
        user=someone,
        probed=rows.probed,
        drafted=rows.drafted,
        reranker=rows.scored,
        adapter=any_scores(examples),
    )
    answered = answer_user(row, task, None)
    assert "zzfiltered" not in str(answered)
    without = [each.system for query in answered.queries for each in query.answers if each.value is None]
    assert without
    evaluation = collect_evaluation_data(task, [(someone, answered)])
    has_no_oracle = any(not query.pool for query in answered.queries)
    assert {name for name, count in evaluation.failed.items() if count} == {*without, *["oracle"] * has_no_oracle}


def test_where_everything_failed_nothing_is_learned(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("test_failed_answers.is_failed", lambda request: True)
    monkeypatch.setattr("builders.completion", failing(FailureKind.ENGINE))
    rows = rows_of(user(8), written, TASKS["LaMP_4"])
    groups = reranker_examples(rows.user, rows.probed, TASKS["LaMP_4"], run_config()).groups
    assert all(candidate.quality is None for group in groups for candidate in group.candidates)
    (examples,) = examples_of(rows, task=TASKS["LaMP_4"])
    assert all(candidate.quality is None for group in examples.groups for candidate in group.candidates)
