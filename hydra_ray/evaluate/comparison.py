"""Comparison of two runs of one task on the queries that both answered.

A comparison is plain JSON; its lists of two are the first run and the second:

    runs                      names of the runs
    task, quality_title       name, kind and labels of the task; title of quality
    metrics                   name, title, is_higher_better of each metric; the first is the main one
    bootstrap                 confidence, num_resamples, seed of all intervals: the second run's
    num_users, num_queries    numbers evaluated in both runs
    alone                     for each run: num_users without a shared query, and num_queries evaluated in it alone
    systems                   by system of both runs: titles; metrics: values and the difference (second minus first,
                              with low and high, on paired resamples of users); users and queries for which the second
                              run is better (win), equal (tie) and worse (loss) by the main metric; test, p_value,
                              and adjusted_p_value, which is Holm's over these systems
    systems_alone             systems that only one of the runs has
    settings, versions        name and values of all that differ; null where a run has no such setting or package
    stages                    name, is_same (one shared result), costs: seconds and the generator's counters
    totals                    the same costs summed over all stages, by name

Shape suffixes: Q shared queries, U users, S systems of both, C columns of a task kind, M sums of one system, X sums of
all systems and runs side by side, B users of a block, R resamples; the axis of length 2 is the runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import ReportConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.evaluation_data import EvaluationData, collect_evaluation_data, quality_of
from hydra_ray.evaluate.intervals import compare, interval, resampled_sums
from hydra_ray.evaluate.metrics import Floats, metrics_of, metrics_of_sums, query_sums
from hydra_ray.evaluate.phrases import Report
from hydra_ray.evaluate.settings import dotted_settings
from hydra_ray.evaluate.significance import holm, paired_test
from hydra_ray.evaluate.systems import same_prompts
from hydra_ray.rows import AnsweredUser, User

COSTS = ("seconds", "requests", "asked_now", "prompt_tokens", "generated_tokens", "failed", "cost")
"""Costs that stages are compared by; those that neither run has are left out."""
_NAMES_OF_ONE_RUN = ("run", "storage.root")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRun:
    """Finished run with all its answers evaluated."""

    report: Report
    """Content of its metrics.json."""
    fingerprints: Mapping[str, str]
    """Fingerprint of each stage, by name."""
    evaluation: EvaluationData
    queries: Mapping[tuple[str, str], tuple[int, str]]
    """Row in `evaluation` and target of every evaluated query, by user_id and query_id, user after user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """Answers of both runs to the queries that they share."""

    systems: tuple[str, ...]
    columns_Q2SC: Floats
    first_query_U: NDArray[np.int64]

    def sums(self, task: Task, start: int, stop: int) -> Floats:
        """Return the sums of the users at positions [start, stop): (B, 2, S, M)."""
        first = self.first_query_U
        last = int(first[stop]) if stop < len(first) else len(self.columns_Q2SC)
        sums_Q2SM = query_sums(task, self.columns_Q2SC[first[start] : last])
        return np.add.reduceat(sums_Q2SM, first[start:stop] - first[start], axis=0)

    def main_means(self) -> Floats:
        """Return the mean of the main metric of each user: (U, 2, S)."""
        counts_U = np.diff(self.first_query_U, append=len(self.columns_Q2SC))
        return np.add.reduceat(self.columns_Q2SC[..., 0], self.first_query_U, axis=0) / counts_U[:, None, None]


def evaluate_run(
    task: Task, report: Report, fingerprints: Mapping[str, str], users: Iterable[tuple[User, AnsweredUser]]
) -> EvaluatedRun:
    """Evaluate a finished run query by query.

    Args:
        users: every new user with the answers to the user's queries; streamed.

    Raises:
        InputError, StorageError: as in `collect_evaluation_data`.
    """
    queries: dict[tuple[str, str], tuple[int, str]] = {}

    def noted() -> Iterator[tuple[User, AnsweredUser]]:
        for user, answered in users:
            targets = {query.query_id: query.target for query in user.queries}
            for query in answered.queries:
                target = targets.get(query.query_id)
                if target is not None:
                    queries[user.user_id, query.query_id] = len(queries), target
            yield user, answered

    evaluation = collect_evaluation_data(task, noted(), same_prompts(report["config"]["drafts"]["num_records"]))
    return EvaluatedRun(report=report, fingerprints=fingerprints, evaluation=evaluation, queries=queries)


def require_same_task(first: Report, second: Report) -> None:
    """Check that two runs have the same task.

    Raises:
        InputError: their tasks differ in name, kind, labels or metric.
    """
    if first["task"] != second["task"]:
        raise InputError(
            f"the runs {first['run']} and {second['run']} do not compare: their tasks are "
            f"{_task_text(first['task'])} and {_task_text(second['task'])}; give two runs of one task"
        )


def compare_answers(task: Task, first: EvaluatedRun, second: EvaluatedRun) -> dict[str, Any]:
    """Return the comparison of two runs (see the module's docstring).

    Raises:
        InputError: the runs have different targets, or no query in common.
    """
    runs = first, second
    keys = _shared_queries(first, second)
    shared = _shared(task, first, second, keys)
    bootstrap = ReportConfig.model_validate(second.report["bootstrap"])
    users = {user_id for user_id, _ in keys}
    return {
        "runs": [run.report["run"] for run in runs],
        **{name: second.report[name] for name in ("task", "metrics", "quality_title", "bootstrap")},
        "num_users": len(users),
        "num_queries": len(keys),
        "alone": [
            {
                "num_users": len({user_id for user_id, _ in run.queries} - users),
                "num_queries": len(run.queries) - len(keys),
            }
            for run in runs
        ],
        "systems": _systems(task, shared, runs, bootstrap),
        "systems_alone": [[name for name in run.evaluation.systems if name not in shared.systems] for run in runs],
        "settings": _differing(*(_comparable_settings(run.report) for run in runs)),
        "versions": _differing(*(run.report["versions"] for run in runs)),
        "stages": _stages(first, second),
        "totals": _costs(*(run.report["totals"] for run in runs)),
    }


def _shared_queries(first: EvaluatedRun, second: EvaluatedRun) -> list[tuple[str, str]]:
    """Return the queries that both runs evaluated, in the order of the first, so user after user."""
    names = [run.report["run"] for run in (first, second)]
    keys = [key for key in first.queries if key in second.queries]
    if not keys:
        raise InputError(
            f"the runs {names[0]} and {names[1]} share none of their {len(first.queries):,} and "
            f"{len(second.queries):,} judged queries; expected two runs on the same users, named alike"
        )
    other = next((key for key in keys if first.queries[key][1] != second.queries[key][1]), None)
    if other is not None:
        raise InputError(
            f"query {other[1]!r} of user {other[0]!r} has one target in {names[0]} and another in {names[1]}: the runs "
            "read different files, so that their answers do not compare"
        )
    return keys


def _task_text(task: Mapping[str, Any]) -> str:
    labels = f", {len(task['labels'])} labels" if task["labels"] else ""
    judged = f", judged by {task['metric']}" if "metric" in task else ""
    return f"{task['name']} ({task['kind']}{labels}{judged})"


def _shared(task: Task, first: EvaluatedRun, second: EvaluatedRun, keys: list[tuple[str, str]]) -> _Shared:
    systems = tuple(name for name in first.evaluation.systems if name in second.evaluation.systems)
    columns: list[Floats] = []
    for run in (first, second):
        places = [run.queries[key][0] for key in keys]
        chosen = [run.evaluation.systems.index(name) for name in systems]
        columns.append(run.evaluation.rows(task)[places][:, chosen])
    starts = [place for place, key in enumerate(keys) if not place or keys[place - 1][0] != key[0]]
    return _Shared(
        systems=systems, columns_Q2SC=np.stack(columns, axis=1), first_query_U=np.array(starts, dtype=np.int64)
    )


def _systems(
    task: Task, shared: _Shared, runs: tuple[EvaluatedRun, EvaluatedRun], bootstrap: ReportConfig
) -> dict[str, Any]:
    num_users, shape = len(shared.first_query_U), (2, len(shared.systems), -1)
    observed_X, resampled_RX = resampled_sums(
        lambda start, stop: shared.sums(task, start, stop).reshape(stop - start, -1),
        num_users,
        bootstrap.num_resamples,
        bootstrap.seed,
    )
    observed = metrics_of_sums(task, observed_X.reshape(shape))
    resampled = metrics_of_sums(task, resampled_RX.reshape(len(resampled_RX), *shape))
    is_higher_better = metrics_of(task)[0].is_higher_better
    means_U2S = shared.main_means()
    quality_U2S = quality_of(task, means_U2S)
    tests = [paired_test(quality_U2S[:, 1, row], quality_U2S[:, 0, row]) for row in range(len(shared.systems))]
    adjusted = holm([test.p_value for test in tests])

    def counted(values: Floats) -> dict[str, int]:
        return asdict(compare(values[:, 1], values[:, 0], is_higher_better))

    def changed(name: str, row: int) -> dict[str, Any]:
        values_2, values_R2 = observed[name][:, row], resampled[name][..., row]
        change = float(values_2[1] - values_2[0])
        difference = interval(change, values_R2[:, 1] - values_R2[:, 0], bootstrap.confidence, num_users)
        return {"values": values_2.tolist(), "difference": asdict(difference)}

    return {
        system: {
            "titles": [run.report["systems"][system]["title"] for run in runs],
            "metrics": {name: changed(name, row) for name in observed},
            "users": counted(means_U2S[..., row]),
            "queries": counted(shared.columns_Q2SC[..., row, 0]),
            **asdict(tests[row]),
            "adjusted_p_value": adjusted[row],
        }
        for row, system in enumerate(shared.systems)
    }


def _comparable_settings(report: Report) -> dict[str, Any]:
    settings = dotted_settings(report["config"])
    return {name: value for name, value in settings.items() if name not in _NAMES_OF_ONE_RUN}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "values": [first.get(name), second.get(name)]}
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _stages(first: EvaluatedRun, second: EvaluatedRun) -> list[dict[str, Any]]:
    """Return the stages of either run in their order in the pipeline, with their costs."""
    costs = [
        {stage["name"]: {"seconds": stage["seconds"], **stage["counters"]} for stage in run.report["stages"]}
        for run in (first, second)
    ]
    return [
        {
            "name": name,
            "is_same": name in first.fingerprints and first.fingerprints[name] == second.fingerprints.get(name),
            "costs": _costs(*(each.get(name, {}) for each in costs)),
        }
        for name in dict.fromkeys([*costs[0], *costs[1]])
    ]


def _costs(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, list[float | None]]:
    return {name: [first.get(name), second.get(name)] for name in COSTS if name in first or name in second}
