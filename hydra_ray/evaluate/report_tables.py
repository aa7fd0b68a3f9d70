"""The tables of the report's page: metrics.json in, HTML out."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from hydra_ray.evaluate.phrases import (
    Figure,
    Report,
    counted,
    pair_verdict,
    plain_figure,
    signed_figure,
    span,
)
from hydra_ray.evaluate.systems import HYDRA

_COST = "cost"
_ERRORS = "errors."
"""Prefix of the counters of failures by kind."""
VERDICTS = {"better": "better", "worse": "worse", "open": "not shown"}
"""What each verdict is called in a table."""


def quality_table(report: Report) -> str:
    """Every metric of every system, and how good it is for the tenth of the users that is worst off."""
    lowest: Mapping[str, float] = report["worst_decile"]["quality"]
    rows = [
        (
            name,
            escape(system["title"]),
            *(with_bounds(system["metrics"][metric["name"]]) for metric in report["metrics"]),
            plain_figure(lowest[name]),
            f"{system['failed_answers']:,}",
        )
        for name, system in report["systems"].items()
    ]
    lowest_title = f"lowest tenth of users,<br><small>{escape(report['quality_title'])}</small>"
    titles = ["system", *_metric_titles(report), lowest_title, "without an answer"]
    return table("All systems", titles, rows)


def difference_tables(report: Report) -> str:
    """HYDRA minus each system, then the pairs that ask what one ingredient adds."""
    further = [
        (first, second) for first in report["differences"] if first != HYDRA for second in _seconds(report, first)
    ]
    tables = _difference_table(report, "HYDRA minus each system", [(HYDRA, each) for each in _seconds(report, HYDRA)])
    return tables + (_difference_table(report, "What one ingredient adds", further) if further else "")


def comparison_table(report: Report) -> str:
    """Users won, tied and lost by HYDRA, over all and by length of history."""
    groups: Mapping[str, Report] = report["history_groups"]
    titles = [
        f"{escape(name)} history<br><small>{span(group['min_records'], group['max_records'])} records, "
        f"{counted(group['num_users'], 'user')}</small>"
        for name, group in groups.items()
    ]
    rows = [
        (
            name,
            f"against {escape(report['systems'][name]['title'])}",
            *(f"{each['win']} / {each['tie']} / {each['loss']}" for each in by_group.values()),
        )
        for name, by_group in report["comparisons"].items()
    ]
    return table("Users won / tied / lost by HYDRA", ["", "all users", *titles], rows)


def gate_table(report: Report) -> str:
    """How good each system is where the gate chose what it chose; nothing where it left no choice."""
    gate: Mapping[str, Report] = report["gate"]
    if len(gate) < 2 or not report["config"]["answers"]["is_gated"]:
        return ""
    systems = report["systems"]
    names = list(next(iter(gate.values()))["quality"])
    rows = [
        (
            "",
            escape(systems[choice]["title"] if choice in systems else choice),
            f"{found['num_queries']:,}",
            *(plain_figure(found["quality"][name]) for name in names),
        )
        for choice, found in gate.items()
    ]
    titles = ["the gate's choice", "queries", *(escape(systems[name]["title"]) for name in names)]
    return table(f"{escape(report['quality_title'])} where the gate chose", titles, rows)


def stage_table(report: Report) -> str:
    """What each stage took, what the generator did in it, and what failed."""
    totals = report["totals"]
    names = ("requests", "asked_now", "prompt_tokens", "generated_tokens")
    is_priced = _COST in totals
    titles = ["stage", "seconds", *(name.replace("_", " ") for name in names), *([_COST] if is_priced else [])]
    titles += ["failed", "failed share", "inexact share"]

    def row(title: str, counters: Mapping[str, float], seconds: float, shares: Sequence[str]) -> Sequence[str]:
        cost = [f"{counters[_COST]:,.4f}" if _COST in counters else ""] if is_priced else []
        counts = (_count(counters.get(name)) for name in names)
        return ("", title, f"{seconds:,.1f}", *counts, *cost, _failures(counters), *shares)

    rows = [
        row(
            escape(stage["name"]) + (" <small>(reused)</small>" if stage["is_reused"] else ""),
            stage["counters"],
            stage["seconds"],
            (_share(stage["failed_fraction"]), _share(stage["inexact_fraction"])),
        )
        for stage in report["stages"]
    ]
    return table("Stages", titles, [*rows, row("all stages", totals, totals["seconds"], ("", ""))])


def heads_table(report: Report) -> str:
    """Which heads were chosen for how many users."""
    heads = [
        ("", escape(scorer), escape(name), f"{num_users:,}")
        for scorer, counts in report["heads"].items()
        for name, num_users in counts.items()
    ]
    return table("Heads that held-out history chose", ["scorer", "head", "users"], heads)


def feature_table(report: Report) -> str:
    """All plain features with their weights, heaviest first; nothing where none are known."""
    features = sorted(report["features"], key=lambda each: (each["scorer"], -abs(each["weight"])))
    rows = [("", escape(each["scorer"]), escape(each["name"]), signed_figure(each["weight"])) for each in features]
    return table("Weights of the plain features", ["scorer", "feature", "weight"], rows) if rows else ""


def table(caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of finished HTML cells; the first entry of a row is the system it is about."""
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(
        f'<tr{mark(system)}><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for system, first, *cells in rows
    )
    return (
        f'<div class="sheet" tabindex="0"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def mark(system: str) -> str:
    """The attribute that sets HYDRA's own rows apart."""
    return ' class="hydra"' if system == HYDRA else ""


def with_bounds(figure: Figure, is_signed: bool = False) -> str:
    """A figure and its interval."""
    shown = signed_figure if is_signed else plain_figure
    return f"{shown(figure['value'])} <small>{bounds(figure, is_signed)}</small>"


def bounds(figure: Figure, is_signed: bool) -> str:
    """The interval of a figure; nothing where it has none."""
    if figure["low"] is None:
        return ""
    shown = signed_figure if is_signed else plain_figure
    return f"[{shown(figure['low'])}, {shown(figure['high'])}]"


def _difference_table(report: Report, caption: str, pairs: Sequence[tuple[str, str]]) -> str:
    main, systems = report["metrics"][0], report["systems"]
    rows: list[Sequence[str]] = []
    for first, second in pairs:
        figures = report["differences"][first][second]
        test = report["significance"][first].get(second)
        title = "" if first == HYDRA else f"{escape(systems[first]['title'])} "
        rows.append(
            (
                second,
                f"{title}minus {escape(systems[second]['title'])}",
                *(with_bounds(figures[metric["name"]], is_signed=True) for metric in report["metrics"]),
                VERDICTS[pair_verdict(report, first, second)],
                p_cell(test and test["p_value"]),
                p_cell(test and test["adjusted_p_value"]),
            )
        )
    return table(caption, ["", *_metric_titles(report), f"by {main['title']}", "p", "Holm"], rows)


def _seconds(report: Report, first: str) -> list[str]:
    return list(report["differences"][first])


def _metric_titles(report: Report) -> list[str]:
    return [metric["title"] + (" ↑" if metric["is_higher_better"] else " ↓") for metric in report["metrics"]]


def p_cell(value: float | None) -> str:
    """A p-value without its letter; nothing where nothing was tested."""
    if value is None:
        return ""
    return "&lt; 0.001" if value < 0.001 else plain_figure(value)


def _failures(counters: Mapping[str, float]) -> str:
    """How many answers failed, and of which kinds where that is known."""
    if "failed" not in counters:
        return ""
    kinds = [
        f"{count:,.0f} {escape(name.removeprefix(_ERRORS).replace('_', ' '))}"
        for name, count in counters.items()
        if name.startswith(_ERRORS) and count
    ]
    return _count(counters["failed"]) + (f" <small>({', '.join(kinds)})</small>" if kinds else "")


def _share(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
