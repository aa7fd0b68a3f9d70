"""The report as one self-contained page, made of the content of a metrics.json; every sentence follows from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hydra_ray.evaluate import report_plots
from hydra_ray.evaluate.best_of_n import best_of_n_curve
from hydra_ray.evaluate.page_parts import Heading, PlotFigure, Table, Tile, make_row, make_table
from hydra_ray.evaluate.phrases import (
    MINUS,
    Figure,
    Report,
    compared,
    duration,
    headline,
    is_priced,
    pair_verdict,
    percent,
    plain_figure,
    signed_figure,
)
from hydra_ray.evaluate.rendering import render
from hydra_ray.evaluate.report_examples import Examples, examples_of
from hydra_ray.evaluate.report_tables import (
    bounds,
    comparison_table,
    difference_tables,
    feature_table,
    gate_table,
    heads_table,
    quality_table,
    stage_table,
)
from hydra_ray.evaluate.settings import seeds
from hydra_ray.evaluate.systems import HYDRA, ORACLE
from hydra_ray.evaluate.text_report import Section, best_of_n_sentence, report_sections
from hydra_ray.findings import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """Commands and settings that repeat a run."""

    run: str
    intervals: str
    """Method of the intervals, as a sentence."""
    commands: str
    configuration: str
    """Configuration as YAML."""
    versions: Table
    plugins: Table | None
    """Functions of other packages; None where there is none."""
    seeds: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPage:
    """Content of templates/report.html."""

    heading: Heading
    tiles: Sequence[Tile]
    ladder: PlotFigure
    beside_ladder: Sequence[PlotFigure]
    card: Sequence[Section]
    against_each: Sequence[PlotFigure]
    all_figures: Sequence[Table]
    users_and_gate: Sequence[Table]
    examples: Examples | None
    costs: Sequence[PlotFigure]
    stages: Table
    heads: Sequence[Table]
    making: Making


def render_page(report: Report) -> str:
    """Return the page for the content of a metrics.json (see `hydra_ray.evaluate.report`)."""
    gate, features = gate_table(report), feature_table(report)
    page = ReportPage(
        heading=_heading(report),
        tiles=_tiles(report),
        ladder=_ladder(report),
        beside_ladder=[*_by_history(report), *_best_of_n(report)],
        card=report_sections(report),
        against_each=_against_each(report),
        all_figures=[quality_table(report), *difference_tables(report)],
        users_and_gate=[comparison_table(report), *([] if gate is None else [gate])],
        examples=examples_of(report),
        costs=_costs(report),
        stages=stage_table(report),
        heads=[heads_table(report), *([] if features is None else [features])],
        making=_making(report),
    )
    return render("report.html", page)


def _heading(report: Report) -> Heading:
    task, name = report["task"], report["best_prompt_baseline"]
    sentence = compared(report, HYDRA, name) if name is not None else ""
    return Heading(
        title=f"{report['run']}: HYDRA on {task['name']}",
        subtitle=(
            f"Run {report['run']} · task {task['name']} ({task['kind']}) · "
            f"{counted(report['num_users'], 'new user')}, "
            f"{counted(report['num_queries'], 'judged query', 'judged queries')}"
        ),
        headline=headline(report),
        lead=sentence[:1].upper() + sentence[1:],
    )


def _tiles(report: Report) -> list[Tile]:
    metric, systems = report["metrics"][0], report["systems"]
    own: Figure = systems[HYDRA]["metrics"][metric["name"]]
    tiles = [_quality_tile("HYDRA", own, metric["title"])]
    name = report["best_prompt_baseline"]
    if name is not None:
        rival, title = systems[name]["metrics"][metric["name"]], systems[name]["title"]
        lift = signed_figure(report["differences"][HYDRA][name][metric["name"]]["value"])
        users = report["comparisons"][name]["overall"]
        won, note = f"{users['win']} : {users['loss']}", f"better : worse off, {users['tie']:,} the same"
        tiles = [
            Tile(
                title=f"HYDRA {MINUS} {title}",
                value=lift,
                note=_lift_note(report, name),
                is_shown=pair_verdict(report, HYDRA, name) != "open",
            ),
            *tiles,
            _quality_tile(title, rival, metric["title"]),
            Tile(title="Users", value=won, note=note),
        ]
    return [*tiles, _time_tile(report)]


def _quality_tile(system: str, figure: Figure, metric: str) -> Tile:
    return Tile(title=system, value=plain_figure(figure["value"]), note=f"{metric} {bounds(figure, is_signed=False)}")


def _time_tile(report: Report) -> Tile:
    totals = report["totals"]
    read, written = totals.get("prompt_tokens", 0), totals.get("generated_tokens", 0)
    note = f"{read:,.0f} tokens read, {written:,.0f} written, {counted(int(totals.get('failed', 0)), 'failure')}"
    cost = f"; cost {totals['cost']:,.2f}" if "cost" in totals and is_priced(report) else "; no price is set"
    return Tile(title="Time of all stages", value=duration(totals["seconds"]), note=note + cost)


def _lift_note(report: Report, rival: str) -> str:
    """Return the interval of the lift, and the lift in relation to the rival's quality."""
    metric, systems = report["metrics"][0], report["systems"]
    lift = report["differences"][HYDRA][rival][metric["name"]]
    interval = f"; {percent(report)} {bounds(lift, is_signed=True)}" if lift["low"] is not None else ""
    own, other = (systems[each]["quality"]["value"] for each in (HYDRA, rival))
    relative = f"; relative {(own - other) / other:+.0%}".replace("-", MINUS) if other else ""
    return f"{metric['title']}{interval}{relative}"


def _ladder(report: Report) -> PlotFigure:
    oracle = (
        "The oracle picks the best of the generator's own proposals; HYDRA may choose any label and so pass it."
        if report["task"]["labels"]
        else "The oracle picks the best of the personal heads' drafts: HYDRA chooses among them and cannot pass it."
    )
    has_oracle = ORACLE in report["systems"]
    note = f"{percent(report)} bootstrap intervals over users." + (f" {oracle}" if has_oracle else "")
    return PlotFigure(title="Quality ladder", note=note, plot=report_plots.quality_plot(report))


def _by_history(report: Report) -> list[PlotFigure]:
    figures: list[PlotFigure] = []
    rival = report["best_prompt_baseline"]
    if rival is not None:
        title = f"Who gains and who is harmed, against {report['systems'][rival]['title']}"
        plot = report_plots.history_plot(report, rival)
        figures.append(PlotFigure(title=title, note=_by_users(report), plot=plot))
    curve = report["history_curve"]
    if len(curve["points"]) > 1:
        note = f"Users in groups of about the same size; {percent(report)} intervals."
        plot = report_plots.curve_plot("history-curve", curve, "records in the history", report["quality_title"])
        figures.append(PlotFigure(title="Quality by length of history", note=note, plot=plot))
    return figures


def _best_of_n(report: Report) -> list[PlotFigure]:
    sentence = best_of_n_sentence(report)
    if sentence is None:
        return []
    titles = {name: system["title"] for name, system in report["systems"].items()}
    curve = best_of_n_curve(report["best_of_n"], titles)
    plot = report_plots.curve_plot("best-of-n", curve, "drafts that are chosen among", report["quality_title"])
    return [PlotFigure(title="Best of N drafts", note=sentence, plot=plot)]


def _by_users(report: Report) -> str:
    return f"Users, by {report['metrics'][0]['title']}."


def _against_each(report: Report) -> list[PlotFigure]:
    note = "Paired on the same resamples: an interval that misses 0 is a difference."
    difference, outcomes = report_plots.difference_plot(report), report_plots.comparison_plot(report)
    return [
        PlotFigure(title="HYDRA minus each system", note=note, plot=difference),
        PlotFigure(title="HYDRA against each system", note=_by_users(report), plot=outcomes),
    ]


def _costs(report: Report) -> list[PlotFigure]:
    figures: list[PlotFigure] = []
    if report["stages"]:
        plot = report_plots.seconds_plot(report)
        figures.append(PlotFigure(title="Time", note="Wall time of each stage.", plot=plot))
    if any(stage["counters"].get("generated_tokens") for stage in report["stages"]):
        plot = report_plots.tokens_plot(report)
        figures.append(PlotFigure(title="Tokens", note="What the generator read and wrote.", plot=plot))
    return figures


def _making(report: Report) -> Making:
    config, bootstrap, run = report["config"], report["bootstrap"], report["run"]
    folder = f"{config['storage']['root'].rstrip('/')}/runs/{run}"
    commands = [f"hydra-ray run {run}.yaml", f"hydra-ray status {folder}", f"hydra-ray report {folder}"]
    return Making(
        run=run,
        intervals=(
            "Intervals are of the percentile bootstrap: "
            f"{bootstrap['num_resamples']:,} resamples of users, {percent(report)}."
        ),
        commands="\n".join(commands),
        configuration=yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100),
        versions=_named_values("Versions", "package", report["versions"]),
        plugins=_plugins(report),
        seeds=_named_values("Seeds", "setting", seeds(config)),
    )


def _plugins(report: Report) -> Table | None:
    rows = [make_row(each["name"], each["setting"], each["source"]) for each in report.get("plugins", ())]
    return make_table("Functions of other packages", ["function", "setting", "source"], rows) if rows else None


def _named_values(caption: str, title: str, values: Mapping[str, Any]) -> Table:
    return make_table(caption, [title, "value"], (make_row(name, str(value)) for name, value in values.items()))
