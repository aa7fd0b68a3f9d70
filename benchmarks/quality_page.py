"""QUALITY.md: the bars with the numbers behind them, and all other results of the sets' runs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from bars import PERSONAL, ROUTED, SHARED, SHUFFLED, Bar, SetRuns

from hydra_ray.evaluate.learning_curves import curve_over_runs, curve_table
from hydra_ray.evaluate.phrases import (
    MINUS,
    Report,
    figure_with_bounds,
    percent,
    plain_figure,
    share,
    signed_with_bounds,
    verdict,
)
from hydra_ray.evaluate.systems import HYDRA, RAG, SYSTEMS
from hydra_ray.findings import counted

Curves = Mapping[str, Mapping[str, Sequence[Report]]]
"""Reports of runs that differ in one setting, by set and dotted setting."""

_TRAIN_USERS, _NUM_RECORDS = "num_train_users", "num_records"


def quality_page(sets: Sequence[SetRuns], bars: Sequence[Bar], planted: Mapping[str, Report], curves: Curves) -> str:
    """Return the page in Markdown.

    Args:
        planted: runs on planted samples by name; empty if they were not run.
        curves: empty if they were not run.
    """
    sections = ["# Quality", _about(sets), _verdicts(bars), "## All systems", _systems_table(sets)]
    for number, bar in enumerate(bars, start=1):
        sections += [f"## Bar {number}: {bar.title}", f"**{bar.word}.** {bar.verdict}", *bar.details]
    sections += ["## What the gate chose", _gate_table(sets)]
    sections += ["## Planted preferences", *_planted_section(planted)]
    sections += ["## By length of history", *_history_section(sets)]
    sections += ["## By setting", *_curves_section(curves)]
    sections += ["## Seconds by stage", _seconds_table(sets)]
    return "\n\n".join(sections) + "\n"


def bar_lines(bars: Sequence[Bar]) -> Iterator[str]:
    """Yield each bar with its verdict as a line of text."""
    for number, bar in enumerate(bars, start=1):
        yield f"{bar.word}  {number}. {bar.title}. {bar.verdict}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(sets: Sequence[SetRuns]) -> str:
    report = sets[0].default
    config = report["config"]
    users = ", ".join(f"{each.name} {each.default['num_users']:,}" for each in sets)
    folds = sorted({each.default["config"]["users"]["num_folds"] for each in sets})
    return (
        f"Written by `make quality`. Users evaluated, each new in one of {', '.join(map(str, folds))} folds: {users}. "
        f"Generator {config['generator']['model']}, encoder {config['adapter']['base']['encoder']}. "
        f"Brackets are {percent(report)} bootstrap intervals over users."
    )


def _verdicts(bars: Sequence[Bar]) -> str:
    rows = [[str(number), bar.title, bar.word, bar.verdict] for number, bar in enumerate(bars, start=1)]
    return table(["bar", "what is asked", "verdict", "in numbers"], rows)


def _systems_table(sets: Sequence[SetRuns]) -> str:
    present = [name for name in SYSTEMS if any(name in each.default["systems"] for each in sets)]
    titles = {name: _title([each.default for each in sets], name) for name in present}
    rows = [[titles[name], *(_system_cell(each.default, name) for each in sets)] for name in present]
    papers = [
        [title, *(_system_cell(each.paper, name) if each.paper else "not run" for each in sets)]
        for title, name in (("Published method", HYDRA), ("Published method, routed shared heads", ROUTED))
    ]
    place = present.index(HYDRA)
    heads = [f"{each.name}<br>{each.default['quality_title']}" for each in sets]
    note = "Bold: HYDRA, and the best prompt-based system of each set.\n\n"
    return note + table(["system", *heads], [*rows[:place], *papers, *rows[place:]])


def _title(reports: Sequence[Report], name: str) -> str:
    """Return the system's title, or all its titles if the runs differ, as in numbers of samples."""
    systems = (report["systems"].get(name) for report in reports)
    return " / ".join(dict.fromkeys(system["title"] for system in systems if system))


def _system_cell(report: Report, name: str) -> str:
    if name not in report["systems"]:
        return ""
    shown = figure_with_bounds(report["systems"][name]["quality"])
    is_own = name == HYDRA and report["config"]["answers"]["is_gated"]
    return f"**{shown}**" if is_own or name == report["best_prompt_baseline"] else shown


def _gate_table(sets: Sequence[SetRuns]) -> str:
    choices = list(dict.fromkeys(choice for each in sets for choice in each.default["gate"]))
    rows: list[list[str]] = []
    for each in sets:
        gate, systems = each.default["gate"], each.default["systems"]
        cells = [share(gate[c]["num_queries"] / each.default["num_queries"]) if c in gate else "0" for c in choices]
        figures = (plain_figure(systems[name]["quality"]["value"]) for name in (HYDRA, PERSONAL))
        rows.append([each.name, *cells, *figures])
    titles = [sets[0].default["systems"].get(choice, {"title": choice})["title"] for choice in choices]
    heads = ["set", *(f"queries by {title}" for title in titles), "quality with the gate", "quality of personal heads"]
    return table(heads, rows)


def _planted_section(planted: Mapping[str, Report]) -> Iterator[str]:
    if not planted:
        yield "Not run (`--planted`)."
        return
    ordered = sorted(planted, key=lambda name: (_size(planted[name])[_NUM_RECORDS], _size(planted[name])[_TRAIN_USERS]))
    shown = [name for name in ordered if _planted_verdict(planted[name]) == "better"]
    yield (
        "Users whose preferences are known, in samples of several sizes. Personal heads are shown to be better than "
        f"shared ones in {len(shown)} of {counted(len(planted), 'sample')}: {', '.join(shown) or 'none'}."
    )
    pairs = ((PERSONAL, SHARED), (PERSONAL, ROUTED), (PERSONAL, SHUFFLED))
    names = (RAG, SHARED, ROUTED, PERSONAL, SHUFFLED)
    rows = [
        [
            name,
            str(_size(planted[name])[_NUM_RECORDS]),
            str(_size(planted[name])[_TRAIN_USERS]),
            str(planted[name]["num_users"]),
            *(plain_figure(planted[name]["systems"][each]["quality"]["value"]) for each in names),
            *(signed_with_bounds(planted[name]["differences"][first][second]["accuracy"]) for first, second in pairs),
        ]
        for name in ordered
    ]
    heads = ["RAG", "shared", "routed", "personal", "shuffled"]
    heads += [f"personal {MINUS} {each}" for each in ("shared", "routed", "shuffled")]
    yield table(["sample", "records a user", "training users", "new users", *heads], rows)


def _planted_verdict(report: Report) -> str:
    return verdict(report["differences"][PERSONAL][SHARED]["accuracy"], report["metrics"][0])


def _size(report: Report) -> Mapping[str, int]:
    return report["config"]["lamp"]["planted"]


def _history_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    for each in sets:
        curve = each.default["history_curve"]
        if len(curve["points"]) > 1:
            yield f"{each.name}, {each.default['quality_title']}:"
            yield curve_table(curve, "records")


def _curves_section(curves: Curves) -> Iterator[str]:
    if not curves:
        yield "Not run (`--curves`)."
    for name, by_setting in curves.items():
        for setting, reports in by_setting.items():
            yield f"{name}, {reports[0]['quality_title']}:"
            yield curve_table(curve_over_runs(reports, setting), f"`{setting}`")


def _seconds_table(sets: Sequence[SetRuns]) -> str:
    """Return a table of seconds with the stages of a scorer together: "reranker.base" is a part of "reranker"."""
    runs = [report for each in sets for report in (each.default, each.paper) if report is not None]
    spent = {report["run"]: _seconds(report) for report in runs}
    stages = list(dict.fromkeys(stage for counts in spent.values() for stage in counts))
    rows = [
        [run, *(f"{counts[stage]:.0f}" for stage in stages), f"{sum(counts.values()):.0f}"]
        for run, counts in spent.items()
    ]
    note = "Of computing each stage once, also where a later run reused it.\n\n"
    return note + table(["run", *stages, "together"], rows)


def _seconds(report: Report) -> Counter[str]:
    counts: Counter[str] = Counter()
    for stage in report["stages"]:
        counts[stage["name"].split(".")[0]] += stage["seconds"]
    return counts
