"""How good every system is, and how much better than others: intervals by the bootstrap, and tests.

Shapes: R resamples, U users, S systems, K sums of a system.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hydra_ray.config import ReportConfig, Task
from hydra_ray.evaluate.evaluation_data import Judged, quality_of
from hydra_ray.evaluate.intervals import interval, resampled_sums
from hydra_ray.evaluate.metrics import METRICS, Floats, metrics_of_sums, query_sums
from hydra_ray.evaluate.significance import holm, paired_test
from hydra_ray.evaluate.systems import COUNTING_SYSTEMS, ORACLE, PROMPT_SYSTEMS, compared_pairs

Nested = dict[str, dict[str, Any]]


def ladder(task: Task, judged: Judged, titles: Mapping[str, str], bootstrap: ReportConfig) -> dict[str, Any]:
    """The report's keys from `systems` to `significance` (see `hydra_ray.evaluate.report`)."""
    num_users, num_systems = len(judged.first_query), len(judged.systems)
    observed_K, resampled_RK = resampled_sums(
        lambda start, stop: _user_sums(task, judged, start, stop).reshape(stop - start, -1),
        num_users,
        bootstrap.num_resamples,
        bootstrap.seed,
    )
    observed = metrics_of_sums(task, observed_K.reshape(num_systems, -1))
    resampled = metrics_of_sums(task, resampled_RK.reshape(len(resampled_RK), num_systems, -1))
    main = METRICS[task.kind][0].name

    def figure(value: Any, value_R: Floats) -> dict[str, Any]:
        return asdict(interval(float(value), value_R, bootstrap.confidence, num_users))

    systems = {
        name: {
            "title": titles[name],
            "failed_answers": judged.failed[name],
            "metrics": {each: figure(observed[each][row], resampled[each][:, row]) for each in observed},
            "quality": figure(*(quality_of(task, each[main][..., row]) for each in (observed, resampled))),
        }
        for row, name in enumerate(judged.systems)
    }
    differences: Nested = {}
    for first, second in compared_pairs(judged.systems):
        rows = judged.systems.index(first), judged.systems.index(second)
        differences.setdefault(first, {})[second] = {
            each: figure(*(values[each][..., rows[0]] - values[each][..., rows[1]] for values in (observed, resampled)))
            for each in observed
        }
    return {
        "systems": systems,
        "best_prompt_baseline": _best(systems, PROMPT_SYSTEMS),
        "best_simple_baseline": _best(systems, COUNTING_SYSTEMS),
        "differences": differences,
        "significance": _significance(judged, judged.user_means(judged.quality(task))),
    }


def _significance(judged: Judged, quality_US: Floats) -> Nested:
    """Tests of all compared pairs, the oracle left out; Holm's correction is over those of one first system."""
    families: dict[str, list[str]] = {}
    for first, second in compared_pairs(judged.systems):
        if second != ORACLE:
            families.setdefault(first, []).append(second)
    columns = dict(zip(judged.systems, quality_US.T, strict=True))
    return {first: _family(columns, first, seconds) for first, seconds in families.items()}


def _family(columns: Mapping[str, Floats], first: str, seconds: Sequence[str]) -> dict[str, Any]:
    tests = [paired_test(columns[first], columns[second]) for second in seconds]
    adjusted = holm([test.p_value for test in tests])
    return {
        second: {**asdict(test), "adjusted_p_value": each}
        for second, test, each in zip(seconds, tests, adjusted, strict=True)
    }


def _user_sums(task: Task, judged: Judged, start: int, stop: int) -> Floats:
    """Sums of the users from one position up to another: B, S, K."""
    first_query = np.frombuffer(judged.first_query, dtype=np.int64)
    last = int(first_query[stop]) if stop < len(first_query) else judged.num_queries
    columns_QSC = judged.rows(task)[first_query[start] : last]
    return np.add.reduceat(query_sums(task, columns_QSC), first_query[start:stop] - first_query[start], axis=0)


def _best(systems: Mapping[str, Any], names: Sequence[str]) -> str | None:
    present = [name for name in names if name in systems]
    return max(present, key=lambda name: systems[name]["quality"]["value"], default=None)
