"""What a mean hides: which answers heads change, who is harmed, who loses most, and what the gate does.

Shapes: Q queries, U users, S systems, M means.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from hydra_ray.config import ReportConfig, Task
from hydra_ray.evaluate.evaluation_data import Judged
from hydra_ray.evaluate.intervals import interval, resampled_means
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.evaluate.systems import HYDRA, RAG

_SAME = 1e-9
_JUDGED_FOR_HARM = (HYDRA, "hydra_personal", "hydra_shared")
_GATED = ("zero_shot", RAG, "hydra_shared", "hydra_personal", HYDRA)


def changed_answers(task: Task, judged: Judged) -> list[dict[str, Any]]:
    """For each control pair: how many answers differ, and how many of these are better and worse by the first."""
    quality_QS = judged.quality(task)
    pairs = judged.control_pairs
    differs_QP = np.frombuffer(judged.differs, dtype=np.int8).reshape(judged.num_queries, len(pairs))
    counts: list[dict[str, Any]] = []
    for place, (first, second) in enumerate(pairs):
        change_Q = quality_QS[:, judged.systems.index(first)] - quality_QS[:, judged.systems.index(second)]
        counts.append(
            {
                "first": first,
                "second": second,
                "num_queries": judged.num_queries,
                "changed": int(differs_QP[:, place].sum()),
                "better": int((change_Q > _SAME).sum()),
                "worse": int((change_Q < -_SAME).sum()),
            }
        )
    return counts


def harm(task: Task, judged: Judged, bootstrap: ReportConfig) -> dict[str, Any] | None:
    """How often a system is worse than RAG, beside how often RAG sampled once is worse than RAG sampled again.

    Only queries with at least two samples count, for both shares. With one query a user they are shares of users.

    Returns:
        None where RAG is not among the systems, or no query has two samples.
    """
    resampled_Q = np.frombuffer(judged.resampled_worse, dtype=np.float64)
    has_samples_Q = ~np.isnan(resampled_Q)
    if RAG not in judged.systems or not has_samples_Q.any():
        return None
    quality_QS = judged.quality(task)
    names = [name for name in _JUDGED_FOR_HARM if name in judged.systems]
    worse_QS = quality_QS < quality_QS[:, [judged.systems.index(RAG)]] - _SAME
    shares_QM = np.stack([resampled_Q, *(worse_QS[:, judged.systems.index(name)] for name in names)], axis=1)
    weights_U = judged.user_means(has_samples_Q.astype(np.float64)) * judged.queries_per_user
    sums_UM = judged.user_means(np.where(has_samples_Q[:, None], shares_QM, 0.0)) * judged.queries_per_user[:, None]
    counted_U = weights_U > 0
    weights_U, sums_UM = weights_U[counted_U], sums_UM[counted_U]
    observed_M, resampled_RM = resampled_means(
        weights_U, sums_UM / weights_U[:, None], bootstrap.num_resamples, bootstrap.seed
    )

    def figure(value: float, value_R: Floats) -> dict[str, Any]:
        return asdict(interval(value, value_R, bootstrap.confidence, len(weights_U)))

    return {
        "rival": RAG,
        "num_queries": int(has_samples_Q.sum()),
        "resampled_worse": figure(float(observed_M[0]), resampled_RM[:, 0]),
        "systems": {
            name: {
                "worse": figure(float(observed_M[place]), resampled_RM[:, place]),
                "minus_resampled": figure(
                    float(observed_M[place] - observed_M[0]), resampled_RM[:, place] - resampled_RM[:, 0]
                ),
            }
            for place, name in enumerate(names, start=1)
        },
    }


def worst_decile(task: Task, judged: Judged, rival: str | None) -> dict[str, Any]:
    """The tenth of the users (at least one) that is worst off: by each system, and by the choice of a system.

    The worst tenth of any difference is a loss, by chance alone; so what the users lose who lose most by HYDRA stands
    beside what those lose who would lose most by the rival instead.
    """
    quality_US = judged.user_means(judged.quality(task))
    num_users = math.ceil(len(quality_US) / 10)

    def lowest(value_U: Floats) -> float:
        return float(np.sort(value_U)[:num_users].mean())

    columns = dict(zip(judged.systems, quality_US.T, strict=True))
    found: dict[str, Any] = {
        "num_users": num_users,
        "quality": {name: lowest(value_U) for name, value_U in columns.items()},
    }
    if rival is None:
        return found
    gain_U = columns[HYDRA] - columns[rival]
    return found | {"rival": rival, "change_by_hydra": lowest(gain_U), "change_by_rival": lowest(-gain_U)}


def gate_choices(task: Task, judged: Judged) -> dict[str, Any]:
    """By what the gate chose: how many queries, how good the systems it chose among are on these, and some reasons."""
    quality_QS = judged.quality(task)
    chosen_Q = np.frombuffer(judged.choices, dtype=np.int16)
    return {
        choice: {
            "num_queries": int((chosen_Q == place).sum()),
            "quality": {
                name: float(quality_QS[chosen_Q == place, judged.systems.index(name)].mean())
                for name in _GATED
                if name in judged.systems
            },
            "reasons": reasons,
        }
        for place, (choice, reasons) in enumerate(judged.reasons.items())
    }
