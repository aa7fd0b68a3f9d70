"""A comparison of two runs as one self-contained page."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra_ray.evaluate import report_plots
from hydra_ray.evaluate.comparison_text import (
    Comparison,
    change_verdict,
    comparison_headline,
    comparison_lead,
    cost_text,
    coverage,
    setting_text,
    total_rows,
)
from hydra_ray.evaluate.page_parts import Cell, Heading, PlotFigure, Row, Table, Tile, make_row, make_table
from hydra_ray.evaluate.phrases import MINUS, plain_figure, signed_figure
from hydra_ray.evaluate.rendering import render
from hydra_ray.evaluate.report_tables import VERDICTS, bounds, metric_title, p_text, with_bounds
from hydra_ray.evaluate.systems import HYDRA

_SHOWN_COSTS = ("seconds", "prompt_tokens", "generated_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """Systems that one run alone has."""

    run: str
    systems: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonPage:
    """Content of templates/comparison.html."""

    heading: Heading
    tiles: Sequence[Tile]
    plots: Sequence[PlotFigure]
    systems: Table
    alone: Sequence[Alone]
    differing: Sequence[Table]
    """Settings and versions; without rows where none differs."""
    costs: Sequence[Table]


def render_comparison(comparison: Comparison) -> str:
    """Return the page for a comparison (see `hydra_ray.evaluate.comparison`)."""
    first, second = comparison["runs"]
    page = ComparisonPage(
        heading=Heading(
            title=f"{first} and {second}: HYDRA on {comparison['task']['name']}",
            subtitle=coverage(comparison),
            headline=comparison_headline(comparison),
            lead=comparison_lead(comparison),
        ),
        tiles=_tiles(comparison),
        plots=_plots(comparison),
        systems=_systems_table(comparison),
        alone=[
            Alone(run=run, systems=", ".join(names))
            for run, names in zip(comparison["runs"], comparison["systems_alone"], strict=True)
            if names
        ],
        differing=[
            _differing(comparison, "settings", "Settings", "setting"),
            _differing(comparison, "versions", "Versions", "package"),
        ],
        costs=[_totals_table(comparison), _stages_table(comparison)],
    )
    return render("comparison.html", page)


def _tiles(comparison: Comparison) -> list[Tile]:
    metric, found = comparison["metrics"][0], comparison["systems"][HYDRA]
    change, users = found["metrics"][metric["name"]], found["users"]
    difference, interval = signed_figure(change["difference"]["value"]), bounds(change["difference"], is_signed=True)
    won, note = f"{users['win']} : {users['loss']}", f"better : worse off, {users['tie']:,} the same"
    name, before, after, cost = next(total_rows(comparison))
    return [
        Tile(
            title="Difference",
            value=difference,
            note=f"{metric['title']} {interval}",
            is_shown=change_verdict(comparison, HYDRA) != "open",
        ),
        *(
            Tile(title=run, value=plain_figure(value), note=metric["title"])
            for run, value in zip(comparison["runs"], change["values"], strict=True)
        ),
        Tile(title="Users", value=won, note=note),
        Tile(title=name.capitalize(), value=cost, note=f"{before}, then {after}"),
    ]


def _plots(comparison: Comparison) -> list[PlotFigure]:
    first, second = comparison["runs"]
    level = f"{100 * comparison['bootstrap']['confidence']:g}%"
    return [
        PlotFigure(
            title="Change of each system",
            note=f"{second} {MINUS} {first}; {level} intervals over users, paired.",
            plot=report_plots.change_plot(comparison),
        ),
        PlotFigure(
            title="Users who gain and users who lose",
            note=f"By {second} in place of {first}.",
            plot=report_plots.gain_plot(comparison),
        ),
    ]


def _systems_table(comparison: Comparison) -> Table:
    metrics, runs = comparison["metrics"], comparison["runs"]
    titles: list[Cell | str] = ["system"]
    for metric in metrics:
        titles += [*(Cell(metric_title(metric), run) for run in runs), "difference"]
    titles += [f"by {metrics[0]['title']}", "p", "Holm", "users better / same / worse"]
    rows = (_system_row(comparison, name) for name in comparison["systems"])
    return make_table("Each system in both runs", titles, rows)


def _system_row(comparison: Comparison, name: str) -> Row:
    found = comparison["systems"][name]
    changes = [found["metrics"][metric["name"]] for metric in comparison["metrics"]]
    return make_row(
        " / ".join(dict.fromkeys(found["titles"])),
        *(
            cell
            for change in changes
            for cell in (*map(plain_figure, change["values"]), with_bounds(change["difference"], is_signed=True))
        ),
        VERDICTS[change_verdict(comparison, name)],
        p_text(found["p_value"]),
        p_text(found["adjusted_p_value"]),
        " / ".join(f"{found['users'][each]:,}" for each in ("win", "tie", "loss")),
        is_own=name == HYDRA,
    )


def _differing(comparison: Comparison, key: str, caption: str, title: str) -> Table:
    rows = (make_row(each["name"], *map(setting_text, each["values"])) for each in comparison[key])
    return make_table(caption, [title, *comparison["runs"]], rows)


def _totals_table(comparison: Comparison) -> Table:
    rows = (make_row(*row) for row in total_rows(comparison))
    return make_table("All stages", ["", *comparison["runs"], "difference"], rows)


def _stages_table(comparison: Comparison) -> Table:
    rows = (
        make_row(
            Cell(stage["name"], "(one result for both)" if stage["is_same"] else ""),
            *(cost_text(name, value) for name in _SHOWN_COSTS for value in stage["costs"].get(name, (None, None))),
        )
        for stage in comparison["stages"]
    )
    titles = [Cell(name.replace("_", " "), run) for name in _SHOWN_COSTS for run in comparison["runs"]]
    return make_table("Stages", ["stage", *titles], rows)
