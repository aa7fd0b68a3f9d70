# matplotlib's signatures leave most argument types open, which strict checking reports at every call.
# pyright: reportUnknownMemberType=false
"""Plots of reports and comparisons of runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra_ray.evaluate.phrases import span
from hydra_ray.evaluate.svg_plot import COLOURS, Plot, draw_plot
from hydra_ray.evaluate.systems import COUNTING_SYSTEMS, HYDRA, ORACLE, PROMPT_SYSTEMS, RAG, RECORD_SYSTEMS, VARIANTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROLES = {
    **dict.fromkeys(PROMPT_SYSTEMS, "prompt"),
    **dict.fromkeys((*COUNTING_SYSTEMS, *RECORD_SYSTEMS), "count"),
    **dict.fromkeys(VARIANTS, "head"),
    HYDRA: "accent",
    ORACLE: "muted",
}
_HOLLOW = ("hydra_shuffled", ORACLE)
_CURVE_STYLES = {
    RAG: ("prompt", "-"),
    "hydra_shared": ("head", "--"),
    "hydra_routed": ("head", ":"),
    "hydra_personal": ("head", "-"),
}
_CURVE_ROWS = 7


def quality_plot(report: Mapping[str, Any]) -> Plot:
    """Draw the quality ladder: every system's main metric with its interval."""
    main, systems = report["metrics"][0], report["systems"]
    figures = [system["metrics"][main["name"]] for system in systems.values()]

    def draw(axes: "Axes") -> None:
        _intervals(axes, list(systems), figures)
        for row, figure in enumerate(figures):
            axes.text(1.02, row, f"{figure['value']:.3f}", transform=axes.get_yaxis_transform(), va="center")
        axes.set_xlabel(main["title"] + ("" if main["is_higher_better"] else " (lower is better)"))
        if main["is_higher_better"]:
            axes.set_xlim(0, None)
        _rows(axes, [system["title"] for system in systems.values()])

    description = "; ".join(
        f"{system['title']} {figure['value']:.3f}" for system, figure in zip(systems.values(), figures, strict=True)
    )
    return draw_plot("quality", f"{main['title']} of each system with its interval", description, len(systems), draw)


def difference_plot(report: Mapping[str, Any]) -> Plot:
    """Draw HYDRA minus every other system by the main metric, better always to the right."""
    main, differences = report["metrics"][0], report["differences"][HYDRA]
    names = list(differences)
    figures = [differences[name][main["name"]] for name in names]
    titles = [report["systems"][name]["title"] for name in names]

    def draw(axes: "Axes") -> None:
        axes.axvline(0, color=COLOURS["ink"], linewidth=1)
        _intervals(axes, names, figures)
        axes.set_xlabel(f"difference in {main['title']}\n← HYDRA worse, better →")
        _rows(axes, titles)
        if not main["is_higher_better"]:
            axes.invert_xaxis()

    described = (f"minus {title} {figure['value']:+.3f}" for title, figure in zip(titles, figures, strict=True))
    return draw_plot("differences", "HYDRA minus each other system", "; ".join(described), len(names) + 1, draw)


def change_plot(comparison: Mapping[str, Any]) -> Plot:
    """Draw the change of each system's main metric from one run to another, better always to the right."""
    main, systems = comparison["metrics"][0], comparison["systems"]
    figures = [found["metrics"][main["name"]]["difference"] for found in systems.values()]
    titles = [found["titles"][1] for found in systems.values()]

    def draw(axes: "Axes") -> None:
        axes.axvline(0, color=COLOURS["ink"], linewidth=1)
        _intervals(axes, list(systems), figures)
        axes.set_xlabel(f"difference in {main['title']}\n← worse, better →")
        _rows(axes, titles)
        if not main["is_higher_better"]:
            axes.invert_xaxis()

    described = (f"{title} {figure['value']:+.3f}" for title, figure in zip(titles, figures, strict=True))
    return draw_plot("changes", "Change of each system", "; ".join(described), len(systems) + 1, draw)


def gain_plot(comparison: Mapping[str, Any]) -> Plot:
    """Draw the shares of users for whom each system is better, as good, and worse in the second run."""
    rows = {found["titles"][1]: found["users"] for found in comparison["systems"].values()}
    return _outcomes("gains", "Users for whom the second run wins, ties and loses", rows)


def comparison_plot(report: Mapping[str, Any]) -> Plot:
    """Draw the shares of users for whom HYDRA is better than, as good as, and worse than each other system."""
    rows = {report["systems"][name]["title"]: groups["overall"] for name, groups in report["comparisons"].items()}
    return _outcomes("comparisons", "Users for whom HYDRA wins, ties and loses", rows)


def history_plot(report: Mapping[str, Any], rival: str) -> Plot:
    """Draw the shares of users for whom HYDRA wins, ties and loses against one system, by length of history."""
    rows = {
        f"{span(group['min_records'], group['max_records'])} records": report["comparisons"][rival][name]
        for name, group in report["history_groups"].items()
    }
    return _outcomes("history", "Users for whom HYDRA wins, ties and loses, by length of history", rows)


def curve_plot(name: str, curve: Mapping[str, Any], x_title: str, y_title: str) -> Plot:
    """Draw a curve: the quality of its systems, point by point, with intervals.

    Args:
        name: unique on the page.
    """
    points, titles = curve["points"], curve["titles"]

    def draw(axes: "Axes") -> None:
        for place, system in enumerate(titles):
            colour, style = _CURVE_STYLES.get(system, (_ROLES[system], "-"))
            # Beside each other, so that intervals do not cover each other.
            x = [row + 0.12 * (place - (len(titles) - 1) / 2) for row in range(len(points))]
            figures = [point["quality"][system] for point in points]
            for at, figure in zip(x, figures, strict=True):
                if figure["low"] is not None:
                    axes.plot([at, at], [figure["low"], figure["high"]], color=COLOURS[colour], linewidth=1.6)
            values = [figure["value"] for figure in figures]
            axes.plot(x, values, "o", linestyle=style, color=COLOURS[colour], markersize=5, label=titles[system])
        axes.set_xticks(range(len(points)), [_tick(point) for point in points])
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        axes.grid(visible=False, axis="x")
        axes.grid(visible=True, axis="y")
        _legend(axes, 2)

    described = "; ".join(
        f"{point['label']}: " + ", ".join(f"{titles[each]} {point['quality'][each]['value']:.3f}" for each in titles)
        for point in points
    )
    return draw_plot(name, f"{y_title} by {x_title}", described, _CURVE_ROWS, draw)


def _tick(point: Mapping[str, Any]) -> str:
    return f"{point['label']}\n{point['num_users']} users" if "num_users" in point else point["label"]


def seconds_plot(report: Mapping[str, Any]) -> Plot:
    """Draw the wall time of each stage; a stage that was reused is only outlined."""
    stages = report["stages"]

    def draw(axes: "Axes") -> None:
        for is_reused, label in ((False, "computed in this run"), (True, "reused")):
            rows = [row for row, stage in enumerate(stages) if stage["is_reused"] == is_reused]
            axes.barh(
                rows,
                [stages[row]["seconds"] for row in rows],
                height=0.62,
                color=COLOURS["paper" if is_reused else "accent"],
                edgecolor=COLOURS["accent"],
                label=label,
            )
        axes.set_xlabel("seconds")
        _rows(axes, [stage["name"] for stage in stages])
        _legend(axes, 2)

    described = "; ".join(f"{stage['name']} {stage['seconds']:.0f} s" for stage in stages)
    return draw_plot("seconds", "Wall time of each stage", described, len(stages) + 1, draw)


def tokens_plot(report: Mapping[str, Any]) -> Plot:
    """Draw the tokens that the generator read and wrote in each stage that asks it."""
    from matplotlib.ticker import EngFormatter

    stages = [stage for stage in report["stages"] if stage["counters"].get("generated_tokens")]
    read = [stage["counters"].get("prompt_tokens", 0) for stage in stages]
    written = [stage["counters"]["generated_tokens"] for stage in stages]

    def draw(axes: "Axes") -> None:
        axes.barh(range(len(stages)), read, height=0.62, color=COLOURS["prompt"], label="prompt")
        axes.barh(range(len(stages)), written, left=read, height=0.62, color=COLOURS["accent"], label="generated")
        axes.set_xlabel("tokens")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _rows(axes, [stage["name"] for stage in stages])
        _legend(axes, 2)

    described = "; ".join(
        f"{stage['name']} {prompt:.0f} prompt and {generated:.0f} generated tokens"
        for stage, prompt, generated in zip(stages, read, written, strict=True)
    )
    return draw_plot("tokens", "Tokens of each stage", described, len(stages) + 1, draw)


def _outcomes(name: str, title: str, rows: Mapping[str, Mapping[str, int]]) -> Plot:
    def draw(axes: "Axes") -> None:
        start = [0.0] * len(rows)
        for outcome, colour in (("win", "accent"), ("tie", "line"), ("loss", "worse")):
            widths = [100 * counts[outcome] / sum(counts.values()) for counts in rows.values()]
            is_tie = outcome == "tie"
            axes.barh(
                range(len(rows)),
                widths,
                left=start,
                height=0.62,
                color=COLOURS[colour],
                edgecolor=COLOURS["muted"],
                linewidth=0.8 if is_tie else 0,
                label=outcome,
            )
            inside = COLOURS["ink" if is_tie else "paper"]
            for row, counts in enumerate(rows.values()):
                # A narrower bar has no room for its number, which the table has.
                if widths[row] >= 1 + 4 * len(str(counts[outcome])):
                    middle = start[row] + widths[row] / 2
                    axes.text(middle, row, str(counts[outcome]), ha="center", va="center", color=inside)
            start = [left + width for left, width in zip(start, widths, strict=True)]
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the users")
        axes.grid(visible=False)
        _rows(axes, list(rows))
        _legend(axes, 3)

    described = "; ".join(
        f"{row}: {counts['win']} wins, {counts['tie']} ties, {counts['loss']} losses" for row, counts in rows.items()
    )
    return draw_plot(name, title, described, len(rows) + 1, draw)


def _intervals(axes: "Axes", names: Sequence[str], figures: Sequence[Mapping[str, Any]]) -> None:
    for row, (name, figure) in enumerate(zip(names, figures, strict=True)):
        colour = COLOURS[_ROLES[name]]
        if figure["low"] is not None:
            axes.plot([figure["low"], figure["high"]], [row, row], color=colour, linewidth=2.4, solid_capstyle="round")
        filling = COLOURS["paper"] if name in _HOLLOW else colour
        axes.plot([figure["value"]], [row], "o", markersize=7, color=colour, markerfacecolor=filling, markeredgewidth=2)


def _rows(axes: "Axes", titles: Sequence[str]) -> None:
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.4, -0.6)


def _legend(axes: "Axes", num_columns: int) -> None:
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=num_columns, frameon=False, borderaxespad=0)
