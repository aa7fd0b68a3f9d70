"""The report as one self-contained page: metrics.json in, HTML out; every sentence follows from the numbers."""

from collections.abc import Mapping
from html import escape
from typing import Any

import yaml

from hydra_ray.evaluate import report_plots
from hydra_ray.evaluate.example_page import examples_html
from hydra_ray.evaluate.html_page import PageSection, figure, folded, render_shell, tile
from hydra_ray.evaluate.phrases import (
    MINUS,
    Figure,
    Report,
    compared,
    counted,
    duration,
    headline,
    percent,
    plain_figure,
    signed_figure,
)
from hydra_ray.evaluate.report_tables import (
    bounds,
    comparison_table,
    difference_tables,
    feature_table,
    gate_table,
    heads_table,
    quality_table,
    stage_table,
    table,
)
from hydra_ray.evaluate.settings import seeds
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.evaluate.text_report import report_sections


def render_page(report: Report) -> str:
    """The page for the content of a metrics.json (see `hydra_ray.evaluate.report`)."""
    task = report["task"]
    return render_shell(
        title=f"{report['run']}: HYDRA on {task['name']}",
        subtitle=(
            f"Run {report['run']} · task {task['name']} ({task['kind']}) · "
            f"{counted(report['num_users'], 'new user')}, "
            f"{counted(report['num_queries'], 'judged query', 'judged queries')}"
        ),
        headline=headline(report),
        lead=_lead(report),
        opening=f'<div class="tiles">{_tiles(report)}</div><div class="plots">{_first_plots(report)}</div>',
        sections=_sections(report),
    )


def _sections(report: Report) -> list[PageSection]:
    comparisons = figure("HYDRA against each system", _by_users(report), report_plots.comparison_plot(report))
    tables = folded("All figures of all systems", quality_table(report) + difference_tables(report))
    return [
        PageSection(name="shown", title="What this shows", html=f'<div class="card">{_card(report)}</div>'),
        PageSection(
            name="systems",
            title="Against each system",
            html=f'<div class="plots">{_difference_figure(report)}{comparisons}</div>{tables}'
            + folded("Users won and lost, and what the gate chose", comparison_table(report) + gate_table(report)),
        ),
        PageSection(name="examples", title="Examples", html=examples_html(report)),
        PageSection(name="cost", title="Time and cost", html=_cost(report)),
        PageSection(name="making", title="How to make it again", html=_making(report)),
    ]


def _lead(report: Report) -> str:
    name = report["best_prompt_baseline"]
    sentence = compared(report, HYDRA, name) if name is not None else ""
    return sentence[:1].upper() + sentence[1:]


def _card(report: Report) -> str:
    blocks: list[str] = []
    for section in report_sections(report):
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in section.sentences)
        blocks.append(f"<section><h3>{escape(section.title)}</h3><ul>{sentences}</ul></section>")
    return "".join(blocks)


def _tiles(report: Report) -> str:
    metric, systems = report["metrics"][0], report["systems"]
    own: Figure = systems[HYDRA]["metrics"][metric["name"]]
    tiles = [tile("HYDRA", plain_figure(own["value"]), f"{metric['title']} {bounds(own, is_signed=False)}")]
    name = report["best_prompt_baseline"]
    if name is not None:
        rival, title = systems[name]["metrics"][metric["name"]], systems[name]["title"]
        lift = report["differences"][HYDRA][name][metric["name"]]
        users = report["comparisons"][name]["overall"]
        tiles = [
            tile(f"HYDRA {MINUS} {title}", signed_figure(lift["value"]), _lift_note(report, name)),
            *tiles,
            tile(title, plain_figure(rival["value"]), f"{metric['title']} {bounds(rival, is_signed=False)}"),
            tile("Users", f"{users['win']} : {users['loss']}", f"better : worse off, {users['tie']:,} the same"),
        ]
    totals = report["totals"]
    read, written = totals.get("prompt_tokens", 0), totals.get("generated_tokens", 0)
    note = f"{read:,.0f} tokens read, {written:,.0f} written, {counted(int(totals.get('failed', 0)), 'failure')}"
    cost = f"; cost {totals['cost']:,.2f}" if "cost" in totals else ""
    return "".join([*tiles, tile("Time of all stages", duration(totals["seconds"]), note + cost)])


def _lift_note(report: Report, rival: str) -> str:
    """The interval of the lift, and the lift in relation to the rival's quality."""
    metric, systems = report["metrics"][0], report["systems"]
    lift = report["differences"][HYDRA][rival][metric["name"]]
    interval = f"; {percent(report)} {bounds(lift, is_signed=True)}" if lift["low"] is not None else ""
    own, other = (systems[each]["quality"]["value"] for each in (HYDRA, rival))
    relative = f"; relative {(own - other) / other:+.0%}".replace("-", MINUS) if other else ""
    return f"{metric['title']}{interval}{relative}"


def _first_plots(report: Report) -> str:
    intervals = f"{percent(report)} bootstrap intervals over users."
    oracle = (
        " The oracle picks the best of the generator's own proposals; HYDRA may choose any label and so pass it."
        if report["task"]["labels"]
        else " The oracle picks the best of the personal heads' drafts: HYDRA chooses among them and cannot pass it."
    )
    ladder = figure("Quality ladder", intervals + oracle, report_plots.quality_plot(report))
    by_history = ""
    rival = report["best_prompt_baseline"]
    if rival is not None:
        title = f"Who gains and who is harmed, against {report['systems'][rival]['title']}"
        by_history += figure(title, _by_users(report), report_plots.history_plot(report, rival))
    curve = report["history_curve"]
    if len(curve["points"]) > 1:
        about = f"Users in groups of about the same size; {percent(report)} intervals."
        plot = report_plots.curve_plot("history-curve", curve, "records in the history", report["quality_title"])
        by_history += figure("Quality by length of history", about, plot)
    return f"{ladder}<div>{by_history}</div>"


def _by_users(report: Report) -> str:
    return f"Users, by {report['metrics'][0]['title']}."


def _difference_figure(report: Report) -> str:
    note = "Paired on the same resamples: an interval that misses 0 is a difference."
    return figure("HYDRA minus each system", note, report_plots.difference_plot(report))


def _cost(report: Report) -> str:
    figures = ""
    if report["stages"]:
        figures = figure("Time", "Wall time of each stage.", report_plots.seconds_plot(report))
    if any(stage["counters"].get("generated_tokens") for stage in report["stages"]):
        figures += figure("Tokens", "What the generator read and wrote.", report_plots.tokens_plot(report))
    chosen = folded("Heads that were chosen, and what weighs in them", heads_table(report) + feature_table(report))
    return f'<div class="plots">{figures}</div>{stage_table(report)}{chosen}'


def _making(report: Report) -> str:
    config, bootstrap, run = report["config"], report["bootstrap"], report["run"]
    configuration = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    folder = f"{config['storage']['root'].rstrip('/')}/runs/{run}"
    commands = [f"hydra-ray run {run}.yaml", f"hydra-ray status {folder}", f"hydra-ray report {folder}"]
    return (
        f"<p class='note'>Save the configuration below as <code>{escape(run)}.yaml</code>; stages that are already "
        f"under its <code>storage.root</code> are reused. Intervals are of the percentile bootstrap: "
        f"{bootstrap['num_resamples']:,} resamples of users, {percent(report)}.</p>"
        f'<pre tabindex="0">{escape(chr(10).join(commands))}</pre>'
        + folded("Configuration", f'<pre tabindex="0">{escape(configuration)}</pre>')
        + folded("Versions", _named_values("Versions", "package", report["versions"]))
        + folded("Seeds", _named_values("Seeds", "setting", seeds(config)))
    )


def _named_values(caption: str, title: str, values: Mapping[str, Any]) -> str:
    rows = [("", escape(name), escape(str(value))) for name, value in values.items()]
    return table(caption, [title, "value"], rows)
