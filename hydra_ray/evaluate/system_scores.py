"""Scores of every system and differences between systems: bootstrap intervals, and tests.

Shape suffixes: R resamples, U users, B users of a block, S systems, C columns of a task kind, M sums of one system, X
sums of all systems side by side, Q queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hydra_ray.config import ReportConfig, Task
from hydra_ray.evaluate.evaluation_data import EvaluationData, quality_of
from hydra_ray.evaluate.intervals import interval, resampled_sums
from hydra_ray.evaluate.metrics import Floats, metrics_of, metrics_of_sums, query_sums
from hydra_ray.evaluate.significance import holm, paired_test
from hydra_ray.evaluate.systems import COUNTING_SYSTEMS, ORACLE, PROMPT_SYSTEMS, compared_pairs

Nested = dict[str, dict[str, Any]]


def system_scores(
    task: Task, evaluation: EvaluationData, titles: Mapping[str, str], bootstrap: ReportConfig
) -> dict[str, Any]:
    """Return the report's keys from `systems` to `significance` (see `hydra_ray.evaluate.report`)."""
    num_users, num_systems = len(evaluation.first_query), len(evaluation.systems)
    observed_X, resampled_RX = resampled_sums(
        lambda start, stop: _user_sums(task, evaluation, start, stop).reshape(stop - start, -1),
        num_users,
        bootstrap.num_resamples,
        bootstrap.seed,
    )
    observed = metrics_of_sums(task, observed_X.reshape(num_systems, -1))
    resampled = metrics_of_sums(task, resampled_RX.reshape(len(resampled_RX), num_systems, -1))
    main = metrics_of(task)[0].name

    def figure(value: Any, value_R: Floats) -> dict[str, Any]:
        return asdict(interval(float(value), value_R, bootstrap.confidence, num_users))

    systems = {
        name: {
            "title": titles[name],
            "failed_answers": evaluation.failed[name],
            "metrics": {each: figure(observed[each][row], resampled[each][:, row]) for each in observed},
            "quality": figure(*(quality_of(task, each[main][..., row]) for each in (observed, resampled))),
        }
        for row, name in enumerate(evaluation.systems)
    }
    differences: Nested = {}
    for first, second in compared_pairs(evaluation.systems):
        rows = evaluation.systems.index(first), evaluation.systems.index(second)
        differences.setdefault(first, {})[second] = {
            each: figure(*(values[each][..., rows[0]] - values[each][..., rows[1]] for values in (observed, resampled)))
            for each in observed
        }
    return {
        "systems": systems,
        "best_prompt_baseline": _best(systems, PROMPT_SYSTEMS),
        "best_simple_baseline": _best(systems, COUNTING_SYSTEMS),
        "differences": differences,
        "significance": _significance(evaluation, evaluation.user_means(evaluation.quality(task))),
    }


def _significance(evaluation: EvaluationData, quality_US: Floats) -> Nested:
    """Test all compared pairs without the oracle; Holm's correction is over those of one first system."""
    families: dict[str, list[str]] = {}
    for first, second in compared_pairs(evaluation.systems):
        if second != ORACLE:
            families.setdefault(first, []).append(second)
    columns = dict(zip(evaluation.systems, quality_US.T, strict=True))
    return {first: _family(columns, first, seconds) for first, seconds in families.items()}


def _family(columns: Mapping[str, Floats], first: str, seconds: Sequence[str]) -> dict[str, Any]:
    tests = [paired_test(columns[first], columns[second]) for second in seconds]
    adjusted = holm([test.p_value for test in tests])
    return {
        second: {**asdict(test), "adjusted_p_value": each}
        for second, test, each in zip(seconds, tests, adjusted, strict=True)
    }


def _user_sums(task: Task, evaluation: EvaluationData, start: int, stop: int) -> Floats:
    """Return the sums of the users at positions [start, stop): (B, S, M)."""
    first_query = np.frombuffer(evaluation.first_query, dtype=np.int64)
    last = int(first_query[stop]) if stop < len(first_query) else evaluation.num_queries
    columns_QSC = evaluation.rows(task)[first_query[start] : last]
    return np.add.reduceat(query_sums(task, columns_QSC), first_query[start:stop] - first_query[start], axis=0)


def _best(systems: Mapping[str, Any], names: Sequence[str]) -> str | None:
    present = [name for name in names if name in systems]
    return max(present, key=lambda name: systems[name]["quality"]["value"], default=None)
