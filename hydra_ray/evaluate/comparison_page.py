"""A comparison of two runs as one self-contained page."""

from html import escape

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
from hydra_ray.evaluate.html_page import PageSection, figure, render_shell, tile
from hydra_ray.evaluate.phrases import MINUS, plain_figure, signed_figure
from hydra_ray.evaluate.report_tables import VERDICTS, bounds, p_cell, table, with_bounds
from hydra_ray.evaluate.systems import HYDRA

_SHOWN_COSTS = ("seconds", "prompt_tokens", "generated_tokens")


def render_comparison(comparison: Comparison) -> str:
    """The page for a comparison (see `hydra_ray.evaluate.comparison`)."""
    first, second = comparison["runs"]
    note = f"{second} {MINUS} {first}; {_level(comparison)} intervals over users, paired."
    return render_shell(
        title=f"{first} and {second}: HYDRA on {comparison['task']['name']}",
        subtitle=coverage(comparison),
        headline=comparison_headline(comparison),
        lead=comparison_lead(comparison),
        opening=f'<div class="tiles">{_tiles(comparison)}</div><div class="plots">'
        + figure("Change of each system", note, report_plots.change_plot(comparison))
        + figure(
            "Users who gain and users who lose", f"By {second} in place of {first}.", report_plots.gain_plot(comparison)
        )
        + "</div>",
        sections=[
            PageSection(name="systems", title="All systems", html=_systems_table(comparison)),
            PageSection(name="settings", title="What differs", html=_settings_tables(comparison)),
            PageSection(name="cost", title="Time and cost", html=_cost_tables(comparison)),
        ],
    )


def _tiles(comparison: Comparison) -> str:
    metric, found = comparison["metrics"][0], comparison["systems"][HYDRA]
    change = found["metrics"][metric["name"]]
    interval = bounds(change["difference"], is_signed=True)
    users = found["users"]
    tiles = [tile("Difference", signed_figure(change["difference"]["value"]), f"{metric['title']} {interval}")]
    for run, value in zip(comparison["runs"], change["values"], strict=True):
        tiles.append(tile(run, plain_figure(value), metric["title"]))
    tiles.append(tile("Users", f"{users['win']} : {users['loss']}", f"better : worse off, {users['tie']:,} the same"))
    name, before, after, difference = next(total_rows(comparison))
    return "".join([*tiles, tile(name.capitalize(), difference, f"{before}, then {after}")])


def _level(comparison: Comparison) -> str:
    return f"{100 * comparison['bootstrap']['confidence']:g}%"


def _systems_table(comparison: Comparison) -> str:
    metrics, (first, second) = comparison["metrics"], comparison["runs"]
    rows = [
        (
            name,
            escape(" / ".join(dict.fromkeys(found["titles"]))),
            *(
                cell
                for metric in metrics
                for cell in (
                    *map(plain_figure, found["metrics"][metric["name"]]["values"]),
                    with_bounds(found["metrics"][metric["name"]]["difference"], is_signed=True),
                )
            ),
            VERDICTS[change_verdict(comparison, name)],
            p_cell(found["p_value"]),
            p_cell(found["adjusted_p_value"]),
            " / ".join(f"{found['users'][each]:,}" for each in ("win", "tie", "loss")),
        )
        for name, found in comparison["systems"].items()
    ]
    titles = ["system"]
    for metric in metrics:
        title = metric["title"] + (" ↑" if metric["is_higher_better"] else " ↓")
        titles += [f"{title}<br><small>{escape(run)}</small>" for run in (first, second)] + ["difference"]
    titles += [f"by {metrics[0]['title']}", "p", "Holm", "users better / same / worse"]
    alone = "".join(
        f"<p class='note'>Only in {escape(run)}: {escape(', '.join(names))}.</p>"
        for run, names in zip(comparison["runs"], comparison["systems_alone"], strict=True)
        if names
    )
    return table("Each system in both runs", titles, rows) + alone


def _settings_tables(comparison: Comparison) -> str:
    runs = [escape(run) for run in comparison["runs"]]
    found: list[str] = []
    for key, caption, title in (("settings", "Settings", "setting"), ("versions", "Versions", "package")):
        rows = [("", escape(e["name"]), *(escape(setting_text(v)) for v in e["values"])) for e in comparison[key]]
        found.append(table(caption, [title, *runs], rows) if rows else f"<p class='note'>{caption}: none differs.</p>")
    return "".join(found)


def _cost_tables(comparison: Comparison) -> str:
    runs = [escape(run) for run in comparison["runs"]]
    totals = [("", *map(escape, row)) for row in total_rows(comparison)]
    stages = [
        (
            "",
            escape(stage["name"]) + (" <small>(one result for both)</small>" if stage["is_same"] else ""),
            *(cost_text(name, value) for name in _SHOWN_COSTS for value in stage["costs"].get(name, (None, None))),
        )
        for stage in comparison["stages"]
    ]
    titles = [f"{name.replace('_', ' ')}<br><small>{run}</small>" for name in _SHOWN_COSTS for run in runs]
    return table("All stages", ["", *runs, "difference"], totals) + table("Stages", ["stage", *titles], stages)
