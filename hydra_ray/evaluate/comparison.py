"""Two runs of one task, compared on the queries that both answered: what changed from the first to the second.

A comparison is plain JSON, its lists of two always the first run and the second:

    runs                      the runs' names
    task, quality_title       name, kind and labels of the task; what quality is called
    metrics                   name, title, is_higher_better of each metric; the first is the main one
    bootstrap                 confidence, num_resamples, seed of all intervals: the second run's
    num_users, num_queries    what both runs judged
    alone                     of each run: num_users without a shared query, and num_queries that it alone judged
    systems                   by system of both runs: titles; metrics: values and the difference (second minus first,
                              with low and high, on paired resamples of users); users and queries for which the second
                              run is better (win), as good (tie) and worse (loss) by the main metric; test, p_value,
                              and adjusted_p_value, which is Holm's over these systems
    systems_alone             the systems that only one of the runs has
    settings, versions        name and values of all that differs; null where a run has no such setting or package
    stages                    name, is_same (one result, made once), costs: seconds and what the generator did
    totals                    the same over all stages, by name

Shapes: Q shared queries, U users, S systems of both, C columns of a task kind, K sums; the axis of length 2: runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import ReportConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.evaluation_data import Judged, judge_users, quality_of
from hydra_ray.evaluate.intervals import compare, interval, resampled_sums
from hydra_ray.evaluate.metrics import METRICS, Floats, metrics_of_sums, query_sums
from hydra_ray.evaluate.phrases import Report
from hydra_ray.evaluate.settings import dotted_settings
from hydra_ray.evaluate.significance import holm, paired_test
from hydra_ray.rows import AnsweredUser, User

COSTS = ("seconds", "requests", "asked_now", "prompt_tokens", "generated_tokens", "failed", "cost")
"""What stages are compared by; those that neither run has are left out."""
_NAMES_OF_ONE_RUN = ("run", "storage.root")


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedRun:
    """A finished run with all its answers judged."""

    report: Report
    """The content of its metrics.json."""
    fingerprints: Mapping[str, str]
    """Of its stages, by name."""
    judged: Judged
    queries: Mapping[tuple[str, str], tuple[int, str]]
    """By user_id and query_id of every judged query, user after user: its place in `judged`, and its target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """The answers of both runs to the queries that they share."""

    systems: tuple[str, ...]
    columns_Q2SC: Floats
    first_query_U: NDArray[np.int64]

    def sums(self, task: Task, start: int, stop: int) -> Floats:
        """Sums of the users from one position up to another: B, 2, S, K."""
        first = self.first_query_U
        last = int(first[stop]) if stop < len(first) else len(self.columns_Q2SC)
        sums_Q2SK = query_sums(task, self.columns_Q2SC[first[start] : last])
        return np.add.reduceat(sums_Q2SK, first[start:stop] - first[start], axis=0)

    def main_means(self) -> Floats:
        """The main metric of each user: U, 2, S."""
        counts_U = np.diff(self.first_query_U, append=len(self.columns_Q2SC))
        return np.add.reduceat(self.columns_Q2SC[..., 0], self.first_query_U, axis=0) / counts_U[:, None, None]


def judge_run(
    task: Task, report: Report, fingerprints: Mapping[str, str], users: Iterable[tuple[User, AnsweredUser]]
) -> JudgedRun:
    """A finished run, judged query by query.

    Args:
        users: every new user with the answers to the user's queries; streamed.

    Raises:
        InputError, StorageError: as in `judge_users`.
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

    return JudgedRun(report=report, fingerprints=fingerprints, judged=judge_users(task, noted()), queries=queries)


def require_same_task(first: Report, second: Report) -> None:
    """Check that answers of two runs can be judged alike.

    Raises:
        InputError: their tasks differ in name, kind or labels.
    """
    if first["task"] != second["task"]:
        raise InputError(
            f"the runs {first['run']} and {second['run']} do not compare: their tasks are "
            f"{_task_words(first['task'])} and {_task_words(second['task'])}; give two runs of one task"
        )


def compare_answers(task: Task, first: JudgedRun, second: JudgedRun) -> dict[str, Any]:
    """The comparison of two runs (see the module's docstring).

    Raises:
        InputError: the runs have other targets, or no query in common.
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
        "systems_alone": [[name for name in run.judged.systems if name not in shared.systems] for run in runs],
        "settings": _differing(*(_comparable_settings(run.report) for run in runs)),
        "versions": _differing(*(run.report["versions"] for run in runs)),
        "stages": _stages(first, second),
        "totals": _costs(*(run.report["totals"] for run in runs)),
    }


def _shared_queries(first: JudgedRun, second: JudgedRun) -> list[tuple[str, str]]:
    """The queries that both runs judged, in the order of the first, so user after user."""
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


def _task_words(task: Mapping[str, Any]) -> str:
    labels = f", {len(task['labels'])} labels" if task["labels"] else ""
    return f"{task['name']} ({task['kind']}{labels})"


def _shared(task: Task, first: JudgedRun, second: JudgedRun, keys: list[tuple[str, str]]) -> _Shared:
    systems = tuple(name for name in first.judged.systems if name in second.judged.systems)
    columns: list[Floats] = []
    for run in (first, second):
        places = [run.queries[key][0] for key in keys]
        chosen = [run.judged.systems.index(name) for name in systems]
        columns.append(run.judged.rows(task)[places][:, chosen])
    starts = [place for place, key in enumerate(keys) if not place or keys[place - 1][0] != key[0]]
    return _Shared(
        systems=systems, columns_Q2SC=np.stack(columns, axis=1), first_query_U=np.array(starts, dtype=np.int64)
    )


def _systems(task: Task, shared: _Shared, runs: tuple[JudgedRun, JudgedRun], bootstrap: ReportConfig) -> dict[str, Any]:
    num_users, shape = len(shared.first_query_U), (2, len(shared.systems), -1)
    observed_K, resampled_RK = resampled_sums(
        lambda start, stop: shared.sums(task, start, stop).reshape(stop - start, -1),
        num_users,
        bootstrap.num_resamples,
        bootstrap.seed,
    )
    observed = metrics_of_sums(task, observed_K.reshape(shape))
    resampled = metrics_of_sums(task, resampled_RK.reshape(len(resampled_RK), *shape))
    is_higher_better = METRICS[task.kind][0].is_higher_better
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


def _stages(first: JudgedRun, second: JudgedRun) -> list[dict[str, Any]]:
    """The stages of either run in the order of the path, with what they cost."""
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
