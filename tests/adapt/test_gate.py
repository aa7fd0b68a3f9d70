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


def test_the_choice_is_for_the_data_set_by_the_training_users_queries():
    rng = np.random.default_rng(0)
    queries = rng.random((30, 4)) * 0.1 + [0.1, 0.2, 0.5, 0.3]
    gate = fit_gate([outcome(n, is_new=False, queries=each) for n, each in enumerate(queries)])
    assert gate is not None
    assert gate.choice == "hydra_shared"
    figures = [f"{name} {mean:.3f}" for name, mean in zip(GATED, queries.mean(axis=0), strict=True)]
    assert all(figure in gate.reason for figure in figures[:3])
    assert "30 training users" in gate.reason
    assert gate.reason.endswith("of own heads nothing is known")


@pytest.mark.parametrize(("best", "name"), [(ZERO_SHOT, "zero_shot"), (RAG, "rag_k")])
def test_where_heads_do_not_help_a_prompt_answers(best: int, name: str):
    expected = np.tile([0.3, 0.3, 0.3, 0.3], (100, 1))
    expected[:, best] = 0.6
    gate = fit_gate(simulated_outcomes(expected, num_pseudo=5, num_new=20))
    assert gate is not None
    assert gate.choice == name


def test_of_equally_good_systems_the_shared_head_answers():
    gate = fit_gate([outcome(n, is_new=False, queries=(0.5, 0.5, 0.5, 0.5)) for n in range(5)])
    assert gate is not None
    assert gate.choice == "hydra_shared"


@pytest.mark.parametrize(("gain", "choice"), [(-0.3, "hydra_shared"), (0.0, "hydra_shared"), (0.3, "hydra_personal")])
def test_own_heads_need_a_gain_above_zero_on_new_users(gain: float, choice: str):
    expected = np.tile([0.2, 0.3, 0.5, 1.0], (80, 1))  # training users' own heads have seen what they are asked
    expected[40:, PERSONAL] = 0.5 + gain
    outcomes = simulated_outcomes(expected, num_pseudo=10, num_new=40)
    gate = fit_gate(outcomes)
    assert gate is not None
    new = np.array([each.pseudo for each in outcomes if each.is_new]).mean(axis=0)
    told = float(gate.reason.rsplit(" [", 1)[0].rsplit(" ", 1)[1])
    assert told == pytest.approx(new[PERSONAL] - new[SHARED], abs=6e-4)
    assert gate.choice == choice


def test_a_gain_by_chance_is_hardly_ever_taken_for_one():
    expected = np.tile([0.2, 0.3, 0.5, 0.5], (60, 1))
    gates = [fit_gate(simulated_outcomes(expected, num_pseudo=5, seed=seed, num_new=40)) for seed in range(60)]
    assert sum(gate is not None and gate.choice == "hydra_personal" for gate in gates) <= 6  # 2.5 % of 60 is 1.5


def test_a_user_of_many_pseudo_queries_counts_as_much_as_they_do():
    new = [outcome(0, is_new=True, pseudo=(0, 0, 0, 1), num_pseudo=1)]
    new += [outcome(n, is_new=True, pseudo=(0, 0, 1, 0), num_pseudo=9) for n in range(1, 3)]
    gate = fit_gate([outcome(9, is_new=False, queries=(0, 0, 0.5, 0.5)), *new])
    assert gate is not None
    assert f"{(1 - 18) / 19:+.3f} [" in gate.reason


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
