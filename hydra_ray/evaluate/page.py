"""The report as one self-contained page: metrics.json in, HTML out; every sentence follows from the numbers."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template

import yaml

from hydra_ray.evaluate import plots
from hydra_ray.evaluate.card import card
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.evaluate.tables import (
    bounds,
    comparison_table,
    difference_tables,
    feature_table,
    gate_table,
    mark,
    quality_table,
    stage_tables,
    table,
)
from hydra_ray.evaluate.words import Figure, Report, compared, counted, headline, percent, plain_figure, signed_figure


def render_page(report: Report) -> str:
    """The page for the content of a metrics.json (see `hydra_ray.evaluate.report`)."""
    template = Template(files("hydra_ray.evaluate").joinpath("page.html").read_text(encoding="utf-8"))
    task = report["task"]
    examples = report["examples"]
    return template.substitute(
        title=escape(f"{report['run']}: HYDRA on {task['name']}"),
        subtitle=escape(
            f"Run {report['run']} · task {task['name']} ({task['kind']}) · "
            f"{counted(report['num_users'], 'new user')}, "
            f"{counted(report['num_queries'], 'judged query', 'judged queries')}"
        ),
        headline=escape(headline(report)),
        lead=escape(_lead(report)),
        tiles=_tiles(report),
        card=_card(report),
        quality_plots=_quality_plots(report),
        quality_tables=quality_table(report) + difference_tables(report),
        comparison_plots=_comparison_plots(report),
        comparison_tables=comparison_table(report) + gate_table(report),
        cost_plots=_cost_plots(report),
        cost_tables=stage_tables(report) + feature_table(report),
        examples="".join(_example(report, example) for example in examples),
        examples_note=escape(_examples_note(report)),
        making=_making(report),
    )


def _lead(report: Report) -> str:
    name = report["best_prompt_baseline"]
    sentence = compared(report, HYDRA, name) if name is not None else ""
    return sentence[:1].upper() + sentence[1:]


def _card(report: Report) -> str:
    blocks: list[str] = []
    for section in card(report):
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in section.sentences)
        blocks.append(f"<section><h3>{escape(section.title)}</h3><ul>{sentences}</ul></section>")
    return "".join(blocks)


def _tiles(report: Report) -> str:
    metric, systems = report["metrics"][0], report["systems"]
    tiles = [_tile("HYDRA", systems[HYDRA]["metrics"][metric["name"]], metric["title"])]
    name = report["best_prompt_baseline"]
    if name is not None:
        overall = report["comparisons"][name]["overall"]
        tiles += [
            _tile(systems[name]["title"], systems[name]["metrics"][metric["name"]], metric["title"]),
            _tile("Difference", report["differences"][HYDRA][name][metric["name"]], metric["title"], is_signed=True),
            f"<div><span>Users</span><strong>{overall['win']} : {overall['loss']}</strong>"
            f"<small>better : worse than {escape(systems[name]['title'])}, {overall['tie']} the same</small></div>",
        ]
    return "".join(tiles)


def _tile(title: str, figure: Figure, unit: str, is_signed: bool = False) -> str:
    shown = signed_figure if is_signed else plain_figure
    return (
        f"<div><span>{escape(title)}</span><strong>{shown(figure['value'])}</strong>"
        f"<small>{escape(unit)} {bounds(figure, is_signed)}</small></div>"
    )


def _quality_plots(report: Report) -> str:
    interval = f"{percent(report)} bootstrap intervals over users."
    oracle = (
        " The oracle picks the best of the generator's own proposals; HYDRA may choose any label and so pass it."
        if report["task"]["labels"]
        else " The oracle picks the best of the personal heads' drafts: HYDRA chooses among them and cannot pass it."
    )
    return _figure("Quality ladder", interval + oracle, plots.quality_plot(report)) + _figure(
        "HYDRA minus each system",
        "Paired on the same resamples: an interval that misses 0 is a difference.",
        plots.difference_plot(report),
    )


def _comparison_plots(report: Report) -> str:
    note = f"Users, by {report['metrics'][0]['title']}."
    by_history = ""
    rival = report["best_prompt_baseline"]
    if rival is not None:
        title = f"Against {report['systems'][rival]['title']}, by length of history"
        by_history += _figure(title, note, plots.history_plot(report, rival))
    curve = report["history_curve"]
    if len(curve["points"]) > 1:
        about = f"Users in groups of about the same size; {percent(report)} intervals."
        plot = plots.curve_plot("history-curve", curve, "records in the history", report["quality_title"])
        by_history += _figure("Quality by length of history", about, plot)
    against = _figure("HYDRA against each system", note, plots.comparison_plot(report))
    return f"{against}<div>{by_history}</div>"


def _cost_plots(report: Report) -> str:
    if not report["stages"]:
        return ""
    figures = _figure("Time", "Wall time of each stage.", plots.seconds_plot(report))
    if any(stage["counters"].get("generated_tokens") for stage in report["stages"]):
        figures += _figure("Tokens", "What the generator read and wrote.", plots.tokens_plot(report))
    return figures


def _figure(title: str, note: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>{svg}</figure>"


def _example(report: Report, example: Report) -> str:
    answers = "".join(
        f"<dt>{escape(report['systems'][name]['title'])}</dt><dd{mark(name)}>{_answer(answer)}</dd>"
        for name, answer in example["answers"].items()
    )
    rival = escape(report["systems"][example["rival"]]["title"])
    words = {"better": f"HYDRA better than {rival}", "worse": f"HYDRA worse than {rival}", "same": f"HYDRA as {rival}"}
    return (
        f"<article><h3>{words[example['outcome']]}</h3>"
        f"<span class='note'>query {escape(example['query_id'])} of user {escape(example['user_id'])}</span>"
        f"<blockquote>{escape(example['input'])}</blockquote>"
        f"<dl><dt>Target</dt><dd><strong>{escape(example['target'])}</strong></dd>{answers}</dl></article>"
    )


def _answer(answer: Mapping[str, str | None]) -> str:
    if answer["value"] is None:
        return f"<span class='missing'>none: {escape(answer['error'] or 'unknown reason')}</span>"
    return escape(answer["value"])


def _examples_note(report: Report) -> str:
    if not report["examples"]:
        return "None were kept."
    rival = report["systems"][report["examples"][0]["rival"]]["title"]
    return f"The first few queries, in table order, on which HYDRA is better than {rival}, as good, and worse."


def _making(report: Report) -> str:
    configuration = yaml.safe_dump(report["config"], sort_keys=False, allow_unicode=True, width=100)
    bootstrap = report["bootstrap"]
    command = f"hydra-ray run {report['run']}.yaml"
    versions = [("", escape(name), escape(version)) for name, version in report["versions"].items()]
    return (
        f"<p class='note'>Intervals: percentile bootstrap, {bootstrap['num_resamples']:,} resamples of users, seed "
        f"{bootstrap['seed']}, {percent(report)}. To reproduce: save the configuration below as "
        f"<code>{escape(report['run'])}.yaml</code> and run <code>{escape(command)}</code>; stages that are already "
        "under its <code>storage.root</code> are reused.</p>"
        f"<details><summary>Configuration</summary><pre>{escape(configuration)}</pre></details>"
        f"<details><summary>Versions</summary>{table('Versions', ['package', 'version'], versions)}</details>"
    )
