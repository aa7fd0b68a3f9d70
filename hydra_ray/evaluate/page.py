"""The report as one self-contained page: metrics.json in, HTML out; every sentence follows from the numbers."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from hydra_ray.evaluate import plots
from hydra_ray.evaluate.findings import (
    Report,
    compared,
    counted,
    findings,
    headline,
    percent,
    plain_figure,
    signed_figure,
    verdict,
)


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
        findings="".join(f"<li>{escape(sentence)}</li>" for sentence in findings(report)),
        quality_plots=_quality_plots(report),
        quality_tables=_quality_table(report) + _difference_table(report),
        comparison_plots=_comparison_plots(report),
        comparison_tables=_comparison_table(report),
        cost_plots=_cost_plots(report),
        cost_tables=_stage_table(report),
        examples="".join(_example(report, example) for example in examples),
        examples_note=escape(_examples_note(report)),
        making=_making(report),
    )


def _lead(report: Report) -> str:
    name = report["best_prompt_baseline"]
    sentence = compared(report, name) if name is not None else ""
    return sentence[:1].upper() + sentence[1:]


def _tiles(report: Report) -> str:
    metric, systems = report["metrics"][0], report["systems"]
    tiles = [_tile("HYDRA", systems["hydra"]["metrics"][metric["name"]], metric["title"])]
    name = report["best_prompt_baseline"]
    if name is not None:
        overall = report["comparisons"][name]["overall"]
        tiles += [
            _tile(systems[name]["title"], systems[name]["metrics"][metric["name"]], metric["title"]),
            _tile("Difference", report["differences"][name][metric["name"]], metric["title"], issigned_figure=True),
            f"<div><span>Users</span><strong>{overall['win']} : {overall['loss']}</strong>"
            f"<small>better : worse than {escape(systems[name]['title'])}, {overall['tie']} the same</small></div>",
        ]
    return "".join(tiles)


def _tile(title: str, figure: Mapping[str, Any], unit: str, issigned_figure: bool = False) -> str:
    shown = signed_figure if issigned_figure else plain_figure
    return (
        f"<div><span>{escape(title)}</span><strong>{shown(figure['value'])}</strong>"
        f"<small>{escape(unit)} {_bounds(figure, issigned_figure)}</small></div>"
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
    metric = report["metrics"][0]["title"]
    figures = _figure("HYDRA against each system", f"Users, by {metric}.", plots.comparison_plot(report))
    rival = report["best_prompt_baseline"]
    if rival is not None:
        title = f"Against {report['systems'][rival]['title']}, by length of history"
        figures += _figure(title, f"Users, by {metric}.", plots.history_plot(report, rival))
    return figures


def _cost_plots(report: Report) -> str:
    if not report["stages"]:
        return ""
    figures = _figure("Time", "Wall time of each stage.", plots.seconds_plot(report))
    if any(stage["counters"].get("generated_tokens") for stage in report["stages"]):
        figures += _figure("Tokens", "What the generator read and wrote.", plots.tokens_plot(report))
    return figures


def _figure(title: str, note: str, svg: str) -> str:
    return f"<figure><figcaption>{escape(title)}<small>{escape(note)}</small></figcaption>{svg}</figure>"


def _quality_table(report: Report) -> str:
    metrics = report["metrics"]
    rows = [
        (
            name,
            escape(system["title"]),
            *(_with_bounds(system["metrics"][metric["name"]]) for metric in metrics),
            f"{system['failed_answers']:,}",
        )
        for name, system in report["systems"].items()
    ]
    return _table("All systems", ["system", *_metric_titles(report), "without an answer"], rows)


def _difference_table(report: Report) -> str:
    words = {"better": "better", "worse": "worse", "open": "no difference shown"}
    main = report["metrics"][0]
    rows = [
        (
            name,
            f"minus {escape(report['systems'][name]['title'])}",
            *(_with_bounds(figures[metric["name"]], issigned_figure=True) for metric in report["metrics"]),
            words[verdict(figures[main["name"]], main)],
        )
        for name, figures in report["differences"].items()
    ]
    return _table("HYDRA minus each system", ["", *_metric_titles(report), f"HYDRA, by {main['title']}"], rows)


def _comparison_table(report: Report) -> str:
    groups: Mapping[str, Any] = report["history_groups"]
    titles = [
        f"{escape(name)} history<br><small>{group['min_records']} to {group['max_records']} records, "
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
    return _table("Users won / tied / lost by HYDRA", ["", "all users", *titles], rows)


def _stage_table(report: Report) -> str:
    names = ("requests", "failed", "prompt_tokens", "generated_tokens")
    rows = [
        (
            "",
            escape(stage["name"]) + (" <small>(reused)</small>" if stage["is_reused"] else ""),
            f"{stage['seconds']:,.1f}",
            *(_count(stage["counters"].get(name)) for name in names),
            _share(stage["failed_fraction"]),
            _share(stage["inexact_fraction"]),
        )
        for stage in report["stages"]
    ]
    titles = ["stage", "seconds", *(name.replace("_", " ") for name in names), "failed share", "inexact share"]
    heads = [
        ("", escape(scorer), escape(name), f"{num_users:,}")
        for scorer, counts in report["heads"].items()
        for name, num_users in counts.items()
    ]
    return _table("Stages", titles, rows) + _table(
        "Heads that held-out history chose", ["scorer", "head", "users"], heads
    )


def _example(report: Report, example: Report) -> str:
    answers = "".join(
        f"<dt>{escape(report['systems'][name]['title'])}</dt><dd{_mark(name)}>{_answer(answer)}</dd>"
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
        f"<details><summary>Versions</summary>{_table('Versions', ['package', 'version'], versions)}</details>"
    )


def _table(caption: str, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of finished HTML cells; the first entry of a row is the system it is about."""
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(
        f'<tr{_mark(system)}><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for system, first, *cells in rows
    )
    return (
        f'<div class="sheet" tabindex="0"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _mark(system: str) -> str:
    return ' class="hydra"' if system == "hydra" else ""


def _metric_titles(report: Report) -> list[str]:
    return [metric["title"] + (" ↑" if metric["is_higher_better"] else " ↓") for metric in report["metrics"]]


def _with_bounds(figure: Mapping[str, Any], issigned_figure: bool = False) -> str:
    shown = signed_figure if issigned_figure else plain_figure
    return f"{shown(figure['value'])} <small>{_bounds(figure, issigned_figure)}</small>"


def _bounds(figure: Mapping[str, Any], issigned_figure: bool) -> str:
    if figure["low"] is None:
        return ""
    shown = signed_figure if issigned_figure else plain_figure
    return f"[{shown(figure['low'])}, {shown(figure['high'])}]"


def _share(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.1%}"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
