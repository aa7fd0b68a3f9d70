"""A sweep's results as one self-contained page."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from hydra_ray.evaluate.html_page import PageSection, figure, folded, render_shell, tile
from hydra_ray.evaluate.report_tables import table
from hydra_ray.sweep.config import Sweep, describe
from hydra_ray.sweep.results import Result, Results
from hydra_ray.sweep.space import encoded
from hydra_ray.sweep.stage_reuse import StageUse
from hydra_ray.sweep.sweep_plots import front_plot, importance_plot, parallel_plot

_JUDGED = {
    "history": "held-out records of the new users' own histories; no evaluated query has chosen a setting",
    "queries": "the evaluated queries, on which the best trial can therefore not be judged again",
}


def render_sweep_page(
    sweep: Sweep, results: Results, best_yaml: str, uses: Sequence[StageUse], computed: Counter[tuple[str, str]]
) -> str:
    """The page of a finished sweep.

    Args:
        uses: of the trials that ended well.
        computed: how often the sweep has computed each stage, by name and fingerprint.
    """
    config, best = sweep.config, results.best
    every_trial = figure(
        "Every trial",
        "A line is a trial: the better, the stronger; the best one stands out. Values of a list stand in its order.",
        f'<div style="overflow-x: auto" tabindex="0"><div style="min-width: 44rem">'
        f"{parallel_plot(results.results, config.space)}</div></div>",
    )
    importance = figure(
        "Importance",
        "Functional ANOVA: how much of the variation of quality a setting explains by itself.",
        importance_plot(results.importances),
    )
    front = figure(
        "Quality against tokens",
        "The line joins the trials that no other beats in quality and in tokens at once.",
        front_plot(results.results),
    )
    plots = f'<div class="plots"><div style="grid-column: 1 / -1">{every_trial}</div>{importance}{front}</div>'
    return render_shell(
        title=f"{config.sweep}: sweep",
        subtitle=f"Sweep {config.sweep} · {config.search} · {_counted(len(results.results))}",
        headline=f"Best: {describe(best.settings)}",
        lead=_lead(results),
        opening=_tiles(results, uses, computed),
        sections=[
            PageSection(name="settings", title="Settings", html=plots),
            PageSection(name="trials", title="Trials", html=_trials(results) + _failures(results)),
            PageSection(name="reuse", title="Stages", html=_stages(uses, computed)),
            PageSection(name="making", title="How this was made", html=_making(sweep, best_yaml)),
        ],
    )


def _counted(number: int) -> str:
    return f"{number} trial" + ("" if number == 1 else "s")


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


def _tiles(results: Results, uses: Sequence[StageUse], computed: Counter[tuple[str, str]]) -> str:
    wanted, distinct = sum(use.wanted for use in uses), sum(use.distinct for use in uses)
    worth = results.best.worth
    on_front = sum(result.is_on_front for result in results.results)
    tiles = [
        tile("Best quality", f"{worth.quality:.3f}", _bounds(results.best).strip(" ()") or "one user"),
        tile("Its tokens", f"{worth.generated_tokens:,}", "generated"),
        tile("Trials", str(len(results.results)), f"{on_front} on the Pareto front, {len(results.failures)} failed"),
        tile("Stage results", str(distinct), f"distinct, of {wanted} that the trials use"),
        tile("Computed", str(sum(computed.values())), _times(computed)),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _times(computed: Counter[tuple[str, str]]) -> str:
    repeated = sum(count > 1 for count in computed.values())
    return "stages, each exactly once" if not repeated else f"times; {repeated} stages more than once"


def _trials(results: Results) -> str:
    keys = list(results.best.settings)
    titles = [*map(escape, keys), "quality", "interval", "generated tokens", "prompt tokens", "seconds", "run"]
    rows: list[list[str]] = []
    for result in results.results:
        worth = result.worth
        first, *others = (escape(str(encoded(result.settings[key]))) for key in keys)
        mark = " ●" if result.is_on_front else ""
        figures = [f"{worth.quality:.3f}{mark}", escape(_bounds(result).strip(" ()"))]
        figures += [f"{worth.generated_tokens:,}", f"{worth.prompt_tokens:,}", f"{worth.seconds:,.0f}"]
        rows.append(["", first, *others, *figures, escape(worth.run)])
    return table("Trials, the best first; ● on the Pareto front", titles, rows)


def _failures(results: Results) -> str:
    rows = [("", escape(describe(each.settings)), escape(each.error or "")) for each in results.failures]
    return table("Trials that failed", ["settings", "why"], rows) if rows else ""


def _stages(uses: Sequence[StageUse], computed: Counter[tuple[str, str]]) -> str:
    by_name: dict[str, list[int]] = {}
    for (name, _), count in computed.items():
        by_name.setdefault(name, []).append(count)
    rows: list[tuple[str, ...]] = []
    for use in uses:
        counts = by_name.get(use.name, [])
        rows.append(
            ("", escape(use.name), str(use.wanted), str(use.distinct), str(len(counts)), str(max(counts, default=0)))
        )
    titles = ["stage", "wanted by trials", "distinct", "computed by this sweep", "most often"]
    note = (
        "<p class='note'>A result that two trials need is computed once, also where both run at the same time. What "
        "was complete under the storage root before the sweep is not computed at all.</p>"
    )
    return note + table("Stage results", titles, rows)


def _making(sweep: Sweep, best_yaml: str) -> str:
    config = sweep.config
    return (
        f"<p class='note'>Judged on {_JUDGED[config.judged_on]}. Seed {config.seed}. The best configuration is also in "
        "<code>best.yaml</code> beside this page and runs as it is: <code>hydra-ray run best.yaml</code>; what the "
        "sweep has computed is not computed again.</p>"
        + folded("Best configuration", f"<pre>{escape(best_yaml)}</pre>")
    )
