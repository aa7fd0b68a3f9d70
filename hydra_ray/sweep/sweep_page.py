"""A sweep's results as one self-contained page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hydra_ray.evaluate.page_parts import Heading, PlotFigure, Row, Table, Tile, make_row, make_table
from hydra_ray.evaluate.rendering import render
from hydra_ray.findings import counted
from hydra_ray.sweep.config import Sweep, describe
from hydra_ray.sweep.results import Result, Results
from hydra_ray.sweep.space import encoded
from hydra_ray.sweep.stage_reuse import StageUse
from hydra_ray.sweep.sweep_plots import front_plot, importance_plot, parallel_plot

_JUDGED = {
    "history": "held-out records of the new users' own histories; no evaluated query has chosen a setting",
    "queries": "the evaluated queries, on which the best trial can therefore not be judged again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPage:
    """Content of templates/sweep.html."""

    heading: Heading
    tiles: Sequence[Tile]
    every_trial: PlotFigure
    plots: Sequence[PlotFigure]
    trials: Sequence[Table]
    stages: Table
    judged_on: str
    """Answers that trials were evaluated on, as text."""
    seed: int
    best_yaml: str


def render_sweep_page(
    sweep: Sweep, results: Results, best_yaml: str, uses: Sequence[StageUse], computed: Counter[tuple[str, str]]
) -> str:
    """Return the page of a finished sweep.

    Args:
        uses: stage uses of the trials that succeeded.
        computed: number of times that the sweep has computed each stage, by name and fingerprint.
    """
    config = sweep.config
    failures = _failures(results)
    page = SweepPage(
        heading=Heading(
            title=f"{config.sweep}: sweep",
            subtitle=f"Sweep {config.sweep} · {config.search} · {counted(len(results.results), 'trial')}",
            headline=f"Best: {describe(results.best.settings)}",
            lead=_lead(results),
        ),
        tiles=_tiles(results, uses, computed),
        every_trial=PlotFigure(
            title="Every trial",
            note="A line is a trial: the better, the stronger; the best one stands out. Values of a list stand in its "
            "order.",
            plot=parallel_plot(results.results, config.space),
        ),
        plots=_plots(results),
        trials=[_trials(results), *([] if failures is None else [failures])],
        stages=_stages(uses, computed),
        judged_on=_JUDGED[config.judged_on],
        seed=config.seed,
        best_yaml=best_yaml,
    )
    return render("sweep.html", page)


def _lead(results: Results) -> str:
    worth = results.best.worth
    words = f"Quality {worth.quality:.3f}{_bounds(results.best)} with {worth.generated_tokens:,} generated tokens."
    equals = [each for each in results.results[1:] if each.worth.quality >= (worth.quality_low or worth.quality)]
    if not equals:
        return f"{words} No other trial is within its interval."
    cheapest = min(equals, key=lambda each: each.worth.generated_tokens)
    words += f" {len(equals)} of the {len(results.results) - 1} other trials are within its interval"
    if cheapest.worth.generated_tokens >= worth.generated_tokens:
        return f"{words}."
    return f"{words}; of these the cheapest, {cheapest.worth.run}, takes {cheapest.worth.generated_tokens:,} tokens."


def _bounds(result: Result) -> str:
    worth = result.worth
    return "" if worth.quality_low is None else f" ({worth.quality_low:.3f} to {worth.quality_high:.3f})"


def _tiles(results: Results, uses: Sequence[StageUse], computed: Counter[tuple[str, str]]) -> list[Tile]:
    wanted, distinct = sum(use.wanted for use in uses), sum(use.distinct for use in uses)
    worth = results.best.worth
    interval = _bounds(results.best).strip(" ()") or "one user"
    on_front = sum(result.is_on_front for result in results.results)
    ended = f"{on_front} on the Pareto front, {len(results.failures)} failed"
    return [
        Tile(title="Best quality", value=f"{worth.quality:.3f}", note=interval),
        Tile(title="Its tokens", value=f"{worth.generated_tokens:,}", note="generated"),
        Tile(title="Trials", value=str(len(results.results)), note=ended),
        Tile(title="Stage results", value=str(distinct), note=f"distinct, of {wanted} that the trials use"),
        Tile(title="Computed", value=str(sum(computed.values())), note=_times(computed)),
    ]


def _times(computed: Counter[tuple[str, str]]) -> str:
    repeated = sum(count > 1 for count in computed.values())
    return "stages, each exactly once" if not repeated else f"times; {repeated} stages more than once"


def _plots(results: Results) -> list[PlotFigure]:
    return [
        PlotFigure(
            title="Importance",
            note="Functional ANOVA: how much of the variation of quality a setting explains by itself.",
            plot=importance_plot(results.importances),
        ),
        PlotFigure(
            title="Quality against tokens",
            note="The line joins the trials that no other beats in quality and in tokens at once.",
            plot=front_plot(results.results),
        ),
    ]


def _trials(results: Results) -> Table:
    keys = list(results.best.settings)
    titles = [*keys, "quality", "interval", "generated tokens", "prompt tokens", "seconds", "run"]
    rows: list[Row] = []
    for result in results.results:
        worth = result.worth
        settings = [str(encoded(result.settings[key])) for key in keys]
        quality = f"{worth.quality:.3f}{' ●' if result.is_on_front else ''}"
        costs = [f"{worth.generated_tokens:,}", f"{worth.prompt_tokens:,}", f"{worth.seconds:,.0f}"]
        rows.append(make_row(*settings, quality, _bounds(result).strip(" ()"), *costs, worth.run))
    return make_table("Trials, the best first; ● on the Pareto front", titles, rows)


def _failures(results: Results) -> Table | None:
    if not results.failures:
        return None
    rows = (make_row(describe(each.settings), each.error or "") for each in results.failures)
    return make_table("Trials that failed", ["settings", "why"], rows)


def _stages(uses: Sequence[StageUse], computed: Counter[tuple[str, str]]) -> Table:
    by_name: dict[str, list[int]] = {}
    for (name, _), count in computed.items():
        by_name.setdefault(name, []).append(count)
    rows: list[Row] = []
    for use in uses:
        counts = by_name.get(use.name, [])
        numbers = use.wanted, use.distinct, len(counts), max(counts, default=0)
        rows.append(make_row(use.name, *map(str, numbers)))
    titles = ["stage", "wanted by trials", "distinct", "computed by this sweep", "most often"]
    return make_table("Stage results", titles, rows)
