"""Controls beyond the mean: answers that heads change, harm to users, worst-off users, choices of the gate.

Shape suffixes: Q queries, U users, S systems, P control pairs, X fractions that are averaged, R resamples.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from hydra_ray.config import ReportConfig, Task
from hydra_ray.evaluate.evaluation_data import EvaluationData
from hydra_ray.evaluate.intervals import interval, resampled_means
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.evaluate.systems import HYDRA, RAG

_SAME = 1e-9
_HARM_SYSTEMS = (HYDRA, "hydra_personal", "hydra_shared")
_GATED = ("zero_shot", RAG, "hydra_shared", "hydra_personal", HYDRA)


def changed_answers(task: Task, evaluation: EvaluationData) -> list[dict[str, Any]]:
    """Return for each control pair how many answers differ, and how many of these are better and worse by the first."""
    quality_QS = evaluation.quality(task)
    pairs = evaluation.control_pairs
    differs_QP = np.frombuffer(evaluation.differs, dtype=np.int8).reshape(evaluation.num_queries, len(pairs))
    counts: list[dict[str, Any]] = []
    for place, (first, second) in enumerate(pairs):
        change_Q = quality_QS[:, evaluation.systems.index(first)] - quality_QS[:, evaluation.systems.index(second)]
        counts.append(
            {
                "first": first,
                "second": second,
                "num_queries": evaluation.num_queries,
                "changed": int(differs_QP[:, place].sum()),
                "better": int((change_Q > _SAME).sum()),
                "worse": int((change_Q < -_SAME).sum()),
            }
        )
    return counts


def harm(task: Task, evaluation: EvaluationData, bootstrap: ReportConfig) -> dict[str, Any] | None:
    """Return how often a system is worse than RAG, with how often one RAG sample is worse than another as the baseline.

    Only queries with at least two samples count, for both fractions. With one query per user they are fractions of
    users.

    Returns:
        None where RAG is not among the systems, or no query has two samples.
    """
    resampled_Q = np.frombuffer(evaluation.resampled_worse, dtype=np.float64)
    has_samples_Q = ~np.isnan(resampled_Q)
    if RAG not in evaluation.systems or not has_samples_Q.any():
        return None
    quality_QS = evaluation.quality(task)
    names = [name for name in _HARM_SYSTEMS if name in evaluation.systems]
    worse_QS = quality_QS < quality_QS[:, [evaluation.systems.index(RAG)]] - _SAME
    fractions_QX = np.stack([resampled_Q, *(worse_QS[:, evaluation.systems.index(name)] for name in names)], axis=1)
    weights_U = evaluation.user_means(has_samples_Q.astype(np.float64)) * evaluation.queries_per_user
    sums_UX = (
        evaluation.user_means(np.where(has_samples_Q[:, None], fractions_QX, 0.0))
        * evaluation.queries_per_user[:, None]
    )
    counted_U = weights_U > 0
    weights_U, sums_UX = weights_U[counted_U], sums_UX[counted_U]
    observed_X, resampled_RX = resampled_means(
        weights_U, sums_UX / weights_U[:, None], bootstrap.num_resamples, bootstrap.seed
    )

    def figure(value: float, value_R: Floats) -> dict[str, Any]:
        return asdict(interval(value, value_R, bootstrap.confidence, len(weights_U)))

    return {
        "rival": RAG,
        "num_queries": int(has_samples_Q.sum()),
        "resampled_worse": figure(float(observed_X[0]), resampled_RX[:, 0]),
        "systems": {
            name: {
                "worse": figure(float(observed_X[place]), resampled_RX[:, place]),
                "minus_resampled": figure(
                    float(observed_X[place] - observed_X[0]), resampled_RX[:, place] - resampled_RX[:, 0]
                ),
            }
            for place, name in enumerate(names, start=1)
        },
    }


def worst_decile(task: Task, evaluation: EvaluationData, rival: str | None) -> dict[str, Any]:
    """Return the mean quality of the worst-off tenth of the users (at least one) by system, and their change between
    systems.

    The worst tenth of any difference is a loss, by chance alone; so the loss of those who lose most by HYDRA is given
    with the loss of those who would lose most by the rival instead.
    """
    quality_US = evaluation.user_means(evaluation.quality(task))
    num_users = math.ceil(len(quality_US) / 10)

    def lowest(value_U: Floats) -> float:
        return float(np.sort(value_U)[:num_users].mean())

    columns = dict(zip(evaluation.systems, quality_US.T, strict=True))
    found: dict[str, Any] = {
        "num_users": num_users,
        "quality": {name: lowest(value_U) for name, value_U in columns.items()},
    }
    if rival is None:
        return found
    gain_U = columns[HYDRA] - columns[rival]
    return found | {"rival": rival, "change_by_hydra": lowest(gain_U), "change_by_rival": lowest(-gain_U)}


def gate_choices(task: Task, evaluation: EvaluationData) -> dict[str, Any]:
    """Return for each choice of the gate the number of queries, the mean qualities of the gated systems on these, and
    some reasons.
    """
    quality_QS = evaluation.quality(task)
    chosen_Q = np.frombuffer(evaluation.choices, dtype=np.int16)
    return {
        choice: {
            "num_queries": int((chosen_Q == place).sum()),
            "quality": {
                name: float(quality_QS[chosen_Q == place, evaluation.systems.index(name)].mean())
                for name in _GATED
                if name in evaluation.systems
            },
            "reasons": reasons,
        }
        for place, (choice, reasons) in enumerate(evaluation.reasons.items())
    }
