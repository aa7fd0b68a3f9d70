"""Summary of several runs: gain of one system over another, task by task and on average.

A relative gain is (first - second) / second, and a share of the room (first - second) / (oracle - second), in quality
(see `hydra_ray.evaluate.evaluation_data`), of means over all queries.

Shape suffixes: U users of a task, R resamples, S the two systems and the oracle where there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hydra_ray.config import ReportConfig
from hydra_ray.errors import InputError
from hydra_ray.evaluate.intervals import Interval, interval, resampled_means
from hydra_ray.evaluate.metrics import Floats
from hydra_ray.evaluate.phrases import MINUS, Report, p_value
from hydra_ray.evaluate.significance import holm, paired_test
from hydra_ray.evaluate.systems import HYDRA, ORACLE
from hydra_ray.findings import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Qualities of two systems for the same users of one task, in the same order."""

    task: str
    first: str
    """Displayed name of the first system."""
    second: str
    first_U: Floats
    second_U: Floats
    num_queries_U: Floats
    oracle_U: Floats | None = None
    """Qualities of the oracle that chooses the best draft; None where no generator drafted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Gain of the first system of a pair over the second."""

    pair: Pair
    first: float
    """Mean quality of the first system over all queries."""
    second: float
    relative: Interval
    """Relative gain (first - second) / second."""
    difference: Interval
    """Absolute gain first - second."""
    room: Interval | None
    """Share of the room from the second system to the oracle; None where there is none."""
    test: str
    p_value: float
    adjusted_p_value: float
    """Holm's p-value over the pairs of the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Gains by pair, and their average with equal weight for each task."""

    gains: tuple[Gain, ...]
    average: Interval
    average_R: Floats
    """The average in each resample."""
    average_room: Interval | None
    """The average share of the room, over the pairs that have one."""


def compare_systems(report: Report, first: str = HYDRA, second: str | None = None) -> Pair:
    """Return the qualities of two systems of one run.

    Args:
        report: content of a metrics.json.
        second: by default the run's best prompt-based system, chosen on all users and fixed in every resample: the
            interval covers the uncertainty of the gain over this system, not that of the choice.

    Raises:
        InputError: the run has no such system, or too many users to store figures of each.
    """
    rival = second or report["best_prompt_baseline"]
    if rival is None:
        raise InputError(f"run {report['run']!r} has no prompt-based system to compare with; name another one")
    return Pair(
        task=report["task"]["name"],
        first=_title(report, first),
        second=_title(report, rival),
        first_U=_quality(report, first),
        second_U=_quality(report, rival),
        num_queries_U=np.array(_users(report)["num_queries"], dtype=np.float64),
        oracle_U=_quality(report, ORACLE) if ORACLE in report["systems"] else None,
    )


def compare_runs(first: Report, second: Report, system_first: str = HYDRA, system_second: str = HYDRA) -> Pair:
    """Return the qualities of the same users in two runs of one task, matched by user id.

    Raises:
        InputError: the runs differ in task or users, or as in `compare_systems`.
    """
    ids, other_ids = _users(first)["user_id"], _users(second)["user_id"]
    if first["task"]["name"] != second["task"]["name"] or set(ids) != set(other_ids):
        raise InputError(
            f"runs {first['run']!r} and {second['run']!r} do not compare: got the tasks {first['task']['name']} and "
            f"{second['task']['name']}, {len(set(ids) & set(other_ids))} users in both, {len(ids)} in the first and "
            f"{len(other_ids)} in the second; expected one task and the same users"
        )
    places = {user_id: place for place, user_id in enumerate(other_ids)}
    return Pair(
        task=first["task"]["name"],
        first=f"{_title(first, system_first)} ({first['run']})",
        second=f"{_title(second, system_second)} ({second['run']})",
        first_U=_quality(first, system_first),
        second_U=_quality(second, system_second)[[places[user_id] for user_id in ids]],
        num_queries_U=np.array(_users(first)["num_queries"], dtype=np.float64),
    )


def summarize(pairs: Sequence[Pair], bootstrap: ReportConfig) -> Summary:
    """Return the gain of every pair, and the averages of the relative gains and of the shares of the room.

    Users are resampled within each task, independently of the other tasks.

    Raises:
        InputError: there is no pair, or a second system has quality 0, so that the relative gain is undefined.
    """
    if not pairs:
        raise InputError("got no runs to summarize, expected at least one")
    tests = [paired_test(pair.first_U, pair.second_U) for pair in pairs]
    adjusted = holm([test.p_value for test in tests])
    gains: list[Gain] = []
    relative: list[Floats] = []
    rooms: list[Floats] = []
    for place, pair in enumerate(pairs):
        means, means_R = _means(pair, bootstrap.num_resamples, bootstrap.seed + place)
        if means[1] == 0:
            raise InputError(f"{pair.second} has quality 0 on {pair.task}, so no gain can be relative to it")
        difference, difference_R = means[0] - means[1], means_R[:, 0] - means_R[:, 1]
        relative.append(difference_R / _above_zero(means_R[:, 1]))
        bounds = bootstrap.confidence, len(pair.first_U)
        room = None
        if pair.oracle_U is not None and means[2] > means[1]:
            rooms.append(difference_R / _above_zero(means_R[:, 2] - means_R[:, 1]))
            room = interval(float(difference / (means[2] - means[1])), rooms[-1], *bounds)
        gains.append(
            Gain(
                pair=pair,
                first=float(means[0]),
                second=float(means[1]),
                relative=interval(float(difference / means[1]), relative[-1], *bounds),
                difference=interval(float(difference), difference_R, *bounds),
                room=room,
                test=tests[place].test,
                p_value=tests[place].p_value,
                adjusted_p_value=adjusted[place],
            )
        )
    fewest = min(len(pair.first_U) for pair in pairs)
    average_R = np.mean(relative, axis=0)
    shares = [gain.room.value for gain in gains if gain.room is not None]

    def average(values: Sequence[float], resampled_R: Floats) -> Interval:
        return interval(float(np.mean(values)), resampled_R, bootstrap.confidence, fewest)

    return Summary(
        gains=tuple(gains),
        average=average([gain.relative.value for gain in gains], average_R),
        average_R=average_R,
        average_room=average(shares, np.mean(rooms, axis=0)) if shares else None,
    )


def summary_text(summary: Summary) -> str:
    """Return the summary as sentences."""
    lines = [f"{counted(len(summary.gains), 'run')}: average relative gain {percentage(summary.average)}"]
    for gain in summary.gains:
        pair = gain.pair
        lines.append(
            f"  {pair.task}: {pair.first} {gain.first:.3f} against {pair.second} {gain.second:.3f}, "
            f"{percentage(gain.relative)} ({gain.test}: {p_value(gain.p_value)}, {p_value(gain.adjusted_p_value)} when "
            f"corrected for {len(summary.gains)} runs)"
        )
    return "\n".join(lines)


def summary_table(summary: Summary) -> str:
    """Return the summary as a Markdown table."""
    lines = [
        "| task | users | first | second | quality | relative gain | p | Holm |",
        "|---|---:|---|---|---|---|---|---|",
    ]
    for gain in summary.gains:
        pair = gain.pair
        lines.append(
            f"| {pair.task} | {len(pair.first_U)} | {pair.first} | {pair.second} | {gain.first:.3f} against "
            f"{gain.second:.3f} | {percentage(gain.relative)} | {gain.p_value:.2g} | {gain.adjusted_p_value:.2g} |"
        )
    return "\n".join([*lines, f"| average | | | | | {percentage(summary.average)} | | |"])


def percentage(figure: Interval) -> str:
    """Format a relative figure with its interval, in percent."""
    bounds = "" if figure.low is None or figure.high is None else f" [{figure.low:+.1%}, {figure.high:+.1%}]"
    return f"{figure.value:+.1%}{bounds}".replace("-", MINUS)


def _means(pair: Pair, num_resamples: int, seed: int) -> tuple[Floats, Floats]:
    systems = [each for each in (pair.first_U, pair.second_U, pair.oracle_U) if each is not None]
    return resampled_means(pair.num_queries_U, np.stack(systems, axis=1), num_resamples, seed)


def _above_zero(values_R: Floats) -> Floats:
    """Return values in resamples by which others are divided: what is not above 0 is replaced by the least that is."""
    return np.maximum(values_R, values_R[values_R > 0].min())


def _users(report: Report) -> Mapping[str, Any]:
    if report["users"] is None:
        raise InputError(
            f"run {report['run']!r} has {report['num_users']:,} users, too many to keep figures of each, which a "
            "summary needs; lower users.max_users"
        )
    return report["users"]


def _title(report: Report, system: str) -> str:
    if system not in report["systems"]:
        raise InputError(f"run {report['run']!r} has no system {system!r}; it has {sorted(report['systems'])}")
    return report["systems"][system]["title"]


def _quality(report: Report, system: str) -> Floats:
    return np.array(_users(report)["quality"][system], dtype=np.float64)
