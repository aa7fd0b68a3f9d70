"""The results of a sweep: as a table on the terminal, as Parquet, and the best configuration as YAML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import yaml

from hydra_ray.config import RunConfig
from hydra_ray.errors import InputError
from hydra_ray.sweep.analysis import Figures, best_result, importances, pareto_front
from hydra_ray.sweep.config import Sweep
from hydra_ray.sweep.space import Settings, encoded, name_of
from hydra_ray.sweep.trial import Worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a trial ended."""

    settings: Settings
    worth: Worth | None
    error: str | None
    """Why it is worth nothing known; None where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A trial that ended well. Key: its run."""

    settings: Settings
    worth: Worth
    is_on_front: bool
    """Whether no other trial is better in quality or in tokens without being worse in the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All trials of a sweep."""

    results: tuple[Result, ...]
    """The best first."""
    failures: tuple[Outcome, ...]
    importances: Mapping[str, float]
    """Of each setting, the most important first."""

    @property
    def best(self) -> Result:
        """The result with the best quality."""
        return self.results[0]


def gather(sweep: Sweep, outcomes: Sequence[Outcome]) -> Results:
    """What the trials of a sweep show; a point that a search tried again counts once.

    Raises:
        InputError: no trial ended well.
    """
    distinct = {name_of(outcome.settings): outcome for outcome in outcomes}
    ended = [(each.settings, each.worth) for each in distinct.values() if each.worth is not None]
    failures = tuple(each for each in distinct.values() if each.worth is None)
    if not ended:
        first = failures[0].error if failures else "there was none"
        raise InputError(f"no trial of the sweep {sweep.config.sweep} ended well; the first: {first}")
    figures = [
        Figures(settings=settings, quality=worth.quality, generated_tokens=worth.generated_tokens)
        for settings, worth in ended
    ]
    front = set(pareto_front(figures, sweep.config.space))
    best = best_result(figures)
    order = sorted(range(len(ended)), key=lambda at: (at != best, -figures[at].quality, figures[at].generated_tokens))
    results = [Result(settings=ended[at][0], worth=ended[at][1], is_on_front=at in front) for at in order]
    return Results(
        results=tuple(results),
        failures=failures,
        importances=importances(figures, sweep.config.space, sweep.config.seed),
    )


def results_table(results: Results) -> pa.Table:
    """One row a trial, the best first and those that failed last.

    Columns: `run`; each setting by its dotted name; the figures of Worth; `is_on_front`; `error`, null where the trial
    ended well.
    """
    rows = [
        {**_plain(result.settings), **_figures(result.worth), "is_on_front": result.is_on_front, "error": None}
        for result in results.results
    ]
    missing = dict.fromkeys([*_figures(results.best.worth), "is_on_front"])
    rows += [{**_plain(failure.settings), **missing, "error": failure.error} for failure in results.failures]
    names = ["run", *results.best.settings, *(name for name in missing if name != "run"), "error"]
    columns = {name: _column([row[name] for row in rows]) for name in names}
    return pa.table({**columns, "error": pa.array([row["error"] for row in rows], pa.string())})


def result_lines(results: Results, num_shown: int = 20) -> list[str]:
    """Return the best results as a table of text."""
    keys = list(results.best.settings)
    rows = [["quality", "interval", "tokens", "front", *keys, "run"]]
    for result in results.results[:num_shown]:
        worth = result.worth
        bounds = "" if worth.quality_low is None else f"{worth.quality_low:.3f}-{worth.quality_high:.3f}"
        values = [str(encoded(result.settings[key])) for key in keys]
        front = "*" if result.is_on_front else ""
        rows.append([f"{worth.quality:.3f}", bounds, str(worth.generated_tokens), front, *values, worth.run])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    hidden = len(results.results) - num_shown
    return [*lines, *([f"and {hidden} more in results.parquet"] if hidden > 0 else [])]


def config_yaml(config: RunConfig) -> str:
    """Return a configuration, every setting of it, as YAML that runs as it is."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return a column of one type: of values of several types, their JSON."""
    types = {type(value) for value in values if value is not None}
    if len(types) <= 1 or types <= {int, float}:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values])


def _plain(settings: Settings) -> dict[str, Any]:
    return {key: encoded(value) for key, value in settings.items()}


def _figures(worth: Worth) -> dict[str, Any]:
    """What is the same however often the sweep was stopped and started."""
    return {name: value for name, value in asdict(worth).items() if name != "num_computed"}
