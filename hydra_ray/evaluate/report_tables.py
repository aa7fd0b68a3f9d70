"""Tables of the report's page, made of the content of a metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra_ray.evaluate.page_parts import Cell, Row, Table, make_row, make_table
from hydra_ray.evaluate.phrases import (
    Figure,
    Report,
    is_priced,
    pair_verdict,
    plain_figure,
    signed_figure,
    span,
)
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.findings import counted
from hydra_ray.generate.failures import COUNTER

_COST = "cost"
VERDICTS = {"better": "better", "worse": "worse", "open": "not shown"}
"""Name of each verdict in a table."""


def quality_table(report: Report) -> Table:
    """Return every metric of every system, and its mean quality for the tenth of the users that is worst off."""
    lowest: Mapping[str, float] = report["worst_decile"]["quality"]
    rows = (
        make_row(
            system["title"],
            *(with_bounds(system["metrics"][metric["name"]]) for metric in report["metrics"]),
            plain_figure(lowest[name]),
            f"{system['failed_answers']:,}",
            is_own=name == HYDRA,
        )
        for name, system in report["systems"].items()
    )
    lowest_title = Cell("lowest tenth of users,", report["quality_title"])
    return make_table("All systems", ["system", *_metric_titles(report), lowest_title, "without an answer"], rows)


def difference_tables(report: Report) -> list[Table]:
    """Return HYDRA minus each system, then the pairs that ask what one ingredient adds."""
    pairs = [(first, second) for first, seconds in report["differences"].items() for second in seconds]
    further = [pair for pair in pairs if pair[0] != HYDRA]
    tables = [_difference_table(report, "HYDRA minus each system", [pair for pair in pairs if pair[0] == HYDRA])]
    return tables + ([_difference_table(report, "What one ingredient adds", further)] if further else [])


def comparison_table(report: Report) -> Table:
    """Return the numbers of users won, tied and lost by HYDRA, over all and by length of history."""
    groups: Mapping[str, Report] = report["history_groups"]
    titles = [
        Cell(
            f"{name} history",
            f"{span(group['min_records'], group['max_records'])} records, {counted(group['num_users'], 'user')}",
        )
        for name, group in groups.items()
    ]
    rows = (
        make_row(
            f"against {report['systems'][name]['title']}",
            *(f"{each['win']} / {each['tie']} / {each['loss']}" for each in by_group.values()),
        )
        for name, by_group in report["comparisons"].items()
    )
    return make_table("Users won / tied / lost by HYDRA", ["", "all users", *titles], rows)


def gate_table(report: Report) -> Table | None:
    """Return each system's quality on the queries of each choice of the gate; None where it left no choice."""
    gate: Mapping[str, Report] = report["gate"]
    if len(gate) < 2 or not report["config"]["answers"]["is_gated"]:
        return None
    systems = report["systems"]
    names = list(next(iter(gate.values()))["quality"])
    rows = (
        make_row(
            systems[choice]["title"] if choice in systems else choice,
            f"{found['num_queries']:,}",
            *(plain_figure(found["quality"][name]) for name in names),
        )
        for choice, found in gate.items()
    )
    titles = ["the gate's choice", "queries", *(systems[name]["title"] for name in names)]
    return make_table(f"{report['quality_title']} where the gate chose", titles, rows)


def stage_table(report: Report) -> Table:
    """Return each stage's seconds, the counters of what it asked the generator, and its failures."""
    totals = report["totals"]
    names = ["requests", "asked_now", "prompt_tokens", "generated_tokens"]
    names += [name for name in ("thoughts", "thought_tokens") if name in totals]
    has_cost = _COST in totals and is_priced(report)
    titles = ["stage", "seconds", *(name.replace("_", " ") for name in names), *([_COST] if has_cost else [])]
    titles += ["failed", "failed share", "inexact share"]

    def cells(counters: Mapping[str, float], seconds: float, shares: Sequence[str]) -> list[Cell | str]:
        cost = [f"{counters[_COST]:,.4f}" if _COST in counters else ""] if has_cost else []
        counts = (_count(counters.get(name)) for name in names)
        return [f"{seconds:,.1f}", *counts, *cost, _failures(counters), *shares]

    rows = [
        make_row(
            Cell(stage["name"], "(reused)" if stage["is_reused"] else ""),
            *cells(
                stage["counters"],
                stage["seconds"],
                (_share(stage["failed_fraction"]), _share(stage["inexact_fraction"])),
            ),
        )
        for stage in report["stages"]
    ]
    return make_table("Stages", titles, [*rows, make_row("all stages", *cells(totals, totals["seconds"], ("", "")))])


def heads_table(report: Report) -> Table:
    """Return the number of users by scorer and chosen head."""
    rows = (
        make_row(scorer, name, f"{num_users:,}")
        for scorer, counts in report["heads"].items()
        for name, num_users in counts.items()
    )
    return make_table("Heads that held-out history chose", ["scorer", "head", "users"], rows)


def feature_table(report: Report) -> Table | None:
    """Return all plain features with their weights, heaviest first; None where none are known."""
    features = sorted(report["features"], key=lambda each: (each["scorer"], -abs(each["weight"])))
    if not features:
        return None
    rows = (make_row(each["scorer"], each["name"], signed_figure(each["weight"])) for each in features)
    return make_table("Weights of the plain features", ["scorer", "feature", "weight"], rows)


def with_bounds(figure: Figure, is_signed: bool = False) -> Cell:
    """Return a figure with its interval."""
    shown = signed_figure if is_signed else plain_figure
    return Cell(shown(figure["value"]), bounds(figure, is_signed))


def bounds(figure: Figure, is_signed: bool) -> str:
    """Return the interval of a figure; nothing where it has none."""
    if figure["low"] is None:
        return ""
    shown = signed_figure if is_signed else plain_figure
    return f"[{shown(figure['low'])}, {shown(figure['high'])}]"


def p_text(value: float | None) -> str:
    """Return a p-value without its letter; nothing where nothing was tested."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else plain_figure(value)


def metric_title(metric: Mapping[str, Any]) -> str:
    """Return a metric's title with the direction in which it is better."""
    return metric["title"] + (" ↑" if metric["is_higher_better"] else " ↓")


def _metric_titles(report: Report) -> list[str]:
    return [metric_title(metric) for metric in report["metrics"]]


def _difference_table(report: Report, caption: str, pairs: Sequence[tuple[str, str]]) -> Table:
    main, systems = report["metrics"][0], report["systems"]
    rows: list[Row] = []
    for first, second in pairs:
        figures = report["differences"][first][second]
        test = report["significance"][first].get(second)
        title = "" if first == HYDRA else f"{systems[first]['title']} "
        rows.append(
            make_row(
                f"{title}minus {systems[second]['title']}",
                *(with_bounds(figures[metric["name"]], is_signed=True) for metric in report["metrics"]),
                VERDICTS[pair_verdict(report, first, second)],
                p_text(test and test["p_value"]),
                p_text(test and test["adjusted_p_value"]),
            )
        )
    return make_table(caption, ["", *_metric_titles(report), f"by {main['title']}", "p", "Holm"], rows)


def _failures(counters: Mapping[str, float]) -> Cell:
    """Return the number of failed answers, and of which kinds they are where that is known."""
    if "failed" not in counters:
        return Cell("")
    kinds = [
        f"{count:,.0f} {name.removeprefix(COUNTER).replace('_', ' ')}"
        for name, count in counters.items()
        if name.startswith(COUNTER) and count
    ]
    return Cell(_count(counters["failed"]), f"({', '.join(kinds)})" if kinds else "")


def _share(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
