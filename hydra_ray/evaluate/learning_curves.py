"""Learning curves: quality by length of history within one run, and by a setting over several runs.

A curve is plain JSON: `titles` by system, and `points`, each with a `label`, the `quality` of each system with its
interval, and `num_users` where points are of different users. A point of the history curve also has the `gain` of HYDRA
over RAG.

Shape suffixes: U users, S systems, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import ReportConfig, Task
from hydra_ray.errors import InputError
from hydra_ray.evaluate.evaluation_data import EvaluationData
from hydra_ray.evaluate.intervals import interval, quantile_groups, resampled_means
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.evaluate.phrases import figure_with_bounds, span
from hydra_ray.evaluate.systems import HYDRA, RAG

Curve = Mapping[str, Any]

CURVED = (RAG, "hydra_shared", "hydra_personal", HYDRA)
"""Systems that curves show."""

_USERS_A_POINT = 20
_MAX_POINTS = 5


def history_curve(
    task: Task, evaluation: EvaluationData, titles: Mapping[str, str], bootstrap: ReportConfig
) -> dict[str, Any]:
    """Return quality by length of history, for up to five groups of about equally many users, at least about 20."""
    num_points = max(1, min(_MAX_POINTS, len(evaluation.first_query) // _USERS_A_POINT))
    groups = quantile_groups(evaluation.history_lengths, num_points)
    names = [name for name in CURVED if name in evaluation.systems]
    return {
        "titles": {name: titles[name] for name in names},
        "points": [_history_point(task, evaluation, members, names, bootstrap) for members in groups if members.any()],
    }


def curve_over_runs(
    reports: Sequence[Mapping[str, Any]], setting: str, systems: Sequence[str] = CURVED
) -> dict[str, Any]:
    """Return quality by the value of one setting, over runs that differ in it; numbers ascending.

    Args:
        reports: contents of metrics.json, of one task.
        setting: dotted key of the configuration, such as "probes.num_records".

    Raises:
        InputError: the runs are of several tasks, or a configuration has no such setting.
    """
    tasks = sorted({report["task"]["name"] for report in reports})
    if len(tasks) != 1:
        raise InputError(f"got runs of the tasks {tasks}; a curve over {setting} needs runs of one task")
    values = [_setting(report, setting) for report in reports]
    if all(isinstance(value, int | float) for value in values):
        order = sorted(range(len(values)), key=lambda place: values[place])
    else:
        order = list(range(len(values)))
    names = [name for name in systems if all(name in report["systems"] for report in reports)]
    return {
        "titles": {name: _common_title(reports, name) for name in names},
        "points": [
            {
                "label": str(values[place]),
                "num_users": reports[place]["num_users"],
                "quality": {name: reports[place]["systems"][name]["quality"] for name in names},
            }
            for place in order
        ],
    }


def curve_table(curve: Curve, heading: str) -> str:
    """Return a curve as a Markdown table.

    Args:
        heading: heading of the points' labels.
    """
    titles = list(curve["titles"].values())
    lines = [f"| {heading} | users | {' | '.join(titles)} |", "|" + "---|" * (2 + len(titles))]
    for point in curve["points"]:
        cells = [figure_with_bounds(figure) for figure in point["quality"].values()]
        lines.append(f"| {point['label']} | {point['num_users']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _history_point(
    task: Task, evaluation: EvaluationData, members_U: NDArray[np.bool_], names: Sequence[str], bootstrap: ReportConfig
) -> dict[str, Any]:
    columns = [evaluation.systems.index(name) for name in names]
    quality_US = evaluation.user_means(evaluation.quality(task)[:, columns])[members_U]
    weights_U = evaluation.queries_per_user[members_U].astype(np.float64)
    means, resampled = resampled_means(weights_U, quality_US, bootstrap.num_resamples, bootstrap.seed)
    lengths = evaluation.history_lengths[members_U]
    shortest, longest = int(lengths.min()), int(lengths.max())

    def figure(value: float, value_R: Floats) -> dict[str, Any]:
        return asdict(interval(value, value_R, bootstrap.confidence, len(lengths)))

    point: dict[str, Any] = {
        "label": span(shortest, longest),
        "num_users": len(lengths),
        "quality": {name: figure(float(means[place]), resampled[:, place]) for place, name in enumerate(names)},
    }
    if RAG in names:
        hydra, rag = names.index(HYDRA), names.index(RAG)
        point["gain"] = figure(float(means[hydra] - means[rag]), resampled[:, hydra] - resampled[:, rag])
    return point


def _common_title(reports: Sequence[Mapping[str, Any]], system: str) -> str:
    """Return the system's title, or its name if the title depends on the setting, as "RAG k=4" does."""
    titles = {report["systems"][system]["title"] for report in reports}
    return titles.pop() if len(titles) == 1 else system


def _setting(report: Mapping[str, Any], setting: str) -> Any:
    value: Any = report["config"]
    for key in setting.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(
                f"the configuration of run {report['run']!r} has no setting {setting!r}; give its dotted key"
            )
        value = value[key]  # pyright: ignore[reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]
