from dataclasses import replace

import numpy as np
import pytest
from builders import Rows, rows_of, run_config, user

from hydra_ray.adapt.gate import GATED, fit_gate, user_outcomes
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import CandidateScore, GateOutcome, Request, ScoredGroup, ScoredUser, User

TASK = TASKS["planted"]
ZERO_SHOT, RAG, SHARED, PERSONAL = range(4)


def outcome(number: int, *, is_new: bool, pseudo=(), num_pseudo: int = 0, queries=()) -> GateOutcome:
    return GateOutcome(
        user_id=str(number),
        fold=0,
        is_new=is_new,
        pseudo=tuple(map(float, pseudo)),
        num_pseudo=num_pseudo,
        queries=tuple(map(float, queries)),
    )


def simulated_outcomes(
    expected_US: np.ndarray, num_pseudo: int, num_queries: int = 10, seed: int = 0, num_new: int = 0
) -> list[GateOutcome]:
    """Users of given expected qualities, each seen on some right or wrong pseudo-queries and queries; the last new."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, expected_S in enumerate(expected_US):
        is_new = number >= len(expected_US) - num_new
        pseudo = rng.random((num_pseudo, 4)) < expected_S
        queries = rng.random((num_queries, 4)) < expected_S
        rows.append(
            outcome(
                number,
                is_new=is_new,
                pseudo=pseudo.mean(axis=0) if num_pseudo else (),
                num_pseudo=num_pseudo,
                queries=() if is_new else queries.mean(axis=0),
            )
        )
    return rows


def test_without_a_training_user_there_is_no_gate():
    assert fit_gate([]) is None
    assert fit_gate([outcome(0, is_new=True, pseudo=(1, 0, 0, 0), num_pseudo=3)]) is None


def test_of_a_user_of_whom_nothing_is_known_the_training_users_mean_decides():
    rng = np.random.default_rng(0)
    queries = rng.random((30, 4)) * 0.1 + [0.1, 0.2, 0.5, 0.3]
    gate = fit_gate([outcome(n, is_new=False, queries=each) for n, each in enumerate(queries)])
    assert gate is not None
    assert gate.means_S == pytest.approx(tuple(queries.mean(axis=0)))
    choice, reason = gate.choose(outcome(99, is_new=True))
    assert choice == "hydra_shared"
    assert all(f"{name} {mean:.3f}" in reason for name, mean in zip(GATED, queries.mean(axis=0), strict=True))


def test_of_equally_good_systems_the_plainest_answers():
    gate = fit_gate([outcome(n, is_new=False, queries=(0.5, 0.5, 0.5, 0.5)) for n in range(5)])
    assert gate is not None
    assert gate.choose(outcome(99, is_new=True))[0] == "zero_shot"


def two_kinds(num_users: int) -> np.ndarray:
    """Every second user is answered better without records."""
    usual, other = [0.3, 0.6, 0.6, 0.6], [0.8, 0.3, 0.3, 0.3]
    return np.array([usual, other] * (num_users // 2))


def test_where_users_differ_each_has_the_system_that_the_own_history_favours():
    outcomes = simulated_outcomes(two_kinds(200), num_pseudo=30, num_new=60)
    gate = fit_gate(outcomes)
    assert gate is not None
    chosen = [gate.choose(each)[0] for each in outcomes if each.is_new]
    right = [(choice == "zero_shot") == bool(number % 2) for number, choice in enumerate(chosen)]
    assert np.mean(right) > 0.9
    assert gate.slopes_S[ZERO_SHOT] > 0.5


def test_two_lucky_pseudo_queries_do_not_overrule_what_all_users_show():
    alike = np.tile([0.45, 0.6, 0.6, 0.6], (100, 1))
    outcomes = simulated_outcomes(alike, num_pseudo=2, num_new=40)
    gate = fit_gate(outcomes)
    assert gate is not None
    assert gate.slopes_S[ZERO_SHOT] < 0.35
    chosen = [gate.choose(each)[0] for each in outcomes if each.is_new]
    assert chosen.count("zero_shot") <= 4


def test_more_pseudo_queries_move_the_expectation_further():
    gate = fit_gate(simulated_outcomes(two_kinds(200), num_pseudo=10))
    assert gate is not None

    def expected(num_pseudo: int) -> float:
        known = outcome(0, is_new=True, pseudo=(0.9, 0.2, 0.2, 0.2), num_pseudo=num_pseudo)
        return float(gate.choose(known)[1].split("zero_shot ")[1].split(",")[0])

    assert gate.means_S[ZERO_SHOT] < expected(1) < expected(5) < expected(50)


def test_expectations_are_the_means_and_the_shrunken_departures_beyond_that_of_rag():
    gate = fit_gate(simulated_outcomes(two_kinds(100), num_pseudo=10, num_new=20))
    assert gate is not None
    known = outcome(0, is_new=True, pseudo=(0.9, 0.4, 0.1, 0.2), num_pseudo=4)
    lines = []
    for place, name in enumerate(GATED):
        beyond = (known.pseudo[place] - gate.pseudo_means_S[place]) - (known.pseudo[RAG] - gate.pseudo_means_S[RAG])
        trust = 4 / (4 + gate.prior_queries_S[place])
        lines.append(f"{name} {gate.means_S[place] + gate.slopes_S[place] * trust * beyond:.3f}")
    assert gate.choose(known)[1].endswith(", ".join(lines))


@pytest.mark.parametrize("gain", [-0.3, 0.3])
def test_gains_of_own_heads_are_estimated_on_new_users_alone(gain: float):
    expected = np.tile([0.2, 0.3, 0.5, 1.0], (60, 1))  # training users' own heads have seen what they are asked
    expected[40:, PERSONAL] = 0.5 + gain
    outcomes = simulated_outcomes(expected, num_pseudo=10, num_new=20)
    gate = fit_gate(outcomes)
    assert gate is not None
    new = np.array([each.pseudo for each in outcomes if each.is_new]).mean(axis=0)
    assert gate.means_S[PERSONAL] == pytest.approx(gate.means_S[SHARED] + new[PERSONAL] - new[SHARED])
    assert gate.choose(outcome(99, is_new=True))[0] == ("hydra_personal" if gain > 0 else "hydra_shared")


def write(request: Request) -> list[str]:
    """Examples are copied; without any the answer is comedy."""
    examples = [message.content for message in request.messages if message.role == "assistant"]
    return [examples[-1] if examples else "comedy"] * request.num_samples


def adapter_scores(rows: Rows, is_new: bool) -> ScoredUser:
    """Scores in which the shared head prefers romance and the own head fantasy."""
    preferred = {"personal": "fantasy", "shared": "romance", "shuffled": "music", "routed": "music"}
    return ScoredUser(
        user_id=rows.user.user_id,
        is_new=is_new,
        head="shared",
        groups=tuple(
            ScoredGroup(
                group_id=f"{query.query_id}/{variant}",
                query_id=query.query_id,
                variant=variant,
                is_pseudo=query.is_pseudo,
                candidates=tuple(
                    CandidateScore(
                        candidate_id=label,
                        **{head: float((label == best) == (variant == "personal")) for head, best in preferred.items()},
                    )
                    for label in TASK.labels
                ),
            )
            for query in rows.drafted.queries
            for variant in ("personal", "shared")
        ),
    )


CROSS_FITTED = replace(user(8, is_new=False), fold=1)


def outcomes_of(someone: User) -> list[GateOutcome]:
    rows = rows_of(someone, write, TASK, run_config(probes={"num_pseudo_queries": 5}, drafts={"num_pseudo_queries": 5}))
    scored = [adapter_scores(rows, is_new=someone.is_new or fold == someone.fold) for fold in range(2)]
    return list(user_outcomes(someone, rows.drafted, scored, TASK))


def test_outcomes_are_the_mean_qualities_of_the_systems_on_what_may_be_learned_from():
    rows = rows_of(
        CROSS_FITTED, write, TASK, run_config(probes={"num_pseudo_queries": 5}, drafts={"num_pseudo_queries": 5})
    )
    outputs = {record.record_id: record.output for record in CROSS_FITTED.history}
    outputs["q"] = "comedy"
    expected: dict[bool, list[list[float]]] = {True: [], False: []}
    for query in rows.drafted.queries:
        target = outputs[query.query_id.removeprefix("record:")]
        (records,) = [prompt.record_ids for prompt in query.prompts if prompt.prompt == "rag_k"]
        answers = ("comedy", outputs[records[0]], "romance", "fantasy")
        expected[query.is_pseudo].append([quality(TASK, answer, target) for answer in answers])
    learned, hidden = outcomes_of(CROSS_FITTED)
    assert (learned.fold, learned.is_new, hidden.fold, hidden.is_new) == (0, False, 1, True)
    for each in (learned, hidden):
        assert each.num_pseudo == len(expected[True]) == 5
        assert each.pseudo == pytest.approx(tuple(np.mean(expected[True], axis=0)))
    assert learned.queries == tuple(expected[False][0])
    assert hidden.queries == ()


@pytest.mark.parametrize("someone", [user(8), CROSS_FITTED])
def test_the_target_of_a_new_user_changes_nothing_in_the_fold_in_which_it_is_new(someone: User):
    (query,) = someone.queries
    changed = replace(someone, queries=(replace(query, target="fantasy"),))
    for before, after in zip(outcomes_of(someone), outcomes_of(changed), strict=True):
        assert (before == after) == before.is_new


def test_an_answer_that_failed_is_worth_nothing():
    def failing(request: Request) -> list[str]:
        return ["no label at all"] * request.num_samples

    rows = rows_of(user(8, is_new=False), failing, TASK)
    (found,) = user_outcomes(rows.user, rows.drafted, [adapter_scores(rows, is_new=False)], TASK)
    assert found.pseudo[ZERO_SHOT] == found.pseudo[RAG] == found.queries[ZERO_SHOT] == found.queries[RAG] == 0


def test_a_user_without_pseudo_queries_has_none_to_show():
    rows = rows_of(user(0), write, TASK)
    (found,) = user_outcomes(rows.user, rows.drafted, [adapter_scores(rows, is_new=True)], TASK)
    assert (found.pseudo, found.num_pseudo, found.queries) == ((), 0, ())
