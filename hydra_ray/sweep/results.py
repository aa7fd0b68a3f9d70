"""Results of a sweep: text table, Parquet table, and the best configuration as YAML."""

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
    """End of a trial: its result or its error."""

    settings: Settings
    worth: Worth | None
    error: str | None
    """Reason why there is no result; None where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A successful trial. Key: its run."""

    settings: Settings
    worth: Worth
    is_on_front: bool
    """Whether the trial is Pareto-optimal in quality and generated tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All trials of a sweep."""

    results: tuple[Result, ...]
    """Successful trials, the best first."""
    failures: tuple[Outcome, ...]
    importances: Mapping[str, float]
    """Importance of each setting, the most important first."""

    @property
    def best(self) -> Result:
        """Result with the best quality."""
        return self.results[0]


def gather(sweep: Sweep, outcomes: Sequence[Outcome]) -> Results:
    """Return the results of a sweep's trials; a point that was tried again counts once.

    Raises:
        InputError: no trial succeeded.
    """
    distinct = {name_of(outcome.settings): outcome for outcome in outcomes}
    ended = [(each.settings, each.worth) for each in distinct.values() if each.worth is not None]
    failures = tuple(each for each in distinct.values() if each.worth is None)
    if not ended:
        first = failures[0].error if failures else "there was none"
        raise InputError(f"no trial of the sweep {sweep.config.sweep} succeeded; the first: {first}")
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
    """Return a table with one row per trial, the best first and failed ones last.

    Columns: `run`; each setting by its dotted name; the fields of Worth; `is_on_front`; `error`, null where the trial
    succeeded.
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
    """Return the best results as lines of a text table."""
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
    """Return the complete configuration as YAML that runs as it is."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return a column of one type; values of mixed types are encoded as JSON."""
    types = {type(value) for value in values if value is not None}
    if len(types) <= 1 or types <= {int, float}:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values])


def _plain(settings: Settings) -> dict[str, Any]:
    return {key: encoded(value) for key, value in settings.items()}


def _figures(worth: Worth) -> dict[str, Any]:
    """Return the fields that do not depend on how often the sweep was restarted."""
    return {name: value for name, value in asdict(worth).items() if name != "num_computed"}
