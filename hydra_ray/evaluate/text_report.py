"""Text report of a run: conclusions in sentences, each of which follows from the figures it shows."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra_ray.evaluate.conclusions import CONCLUSIONS, CONTROL_CONCLUSIONS, conclusion_of, open_sentences
from hydra_ray.evaluate.phrases import (
    MINUS,
    Report,
    generator_text,
    headline,
    p_value,
    pair_verdict,
    percent,
    plain_figure,
    share,
    share_with_bounds,
    signed_bounds,
    signed_figure,
)
from hydra_ray.evaluate.systems import HYDRA, RAG
from hydra_ray.findings import counted

_FEW_USERS = 20
_SHOWN_FEATURES = 5
_WIDTH = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Heading and the sentences under it."""

    title: str
    sentences: tuple[str, ...]


def report_sections(report: Report) -> list[Section]:
    """Return the sections of the report that have any sentences."""
    found = [each for conclusion in CONCLUSIONS if (each := conclusion_of(report, conclusion)) is not None]

    def conclusions(verdict: str) -> Iterator[str]:
        return (each.sentence for each in found if each.verdict == verdict)

    sections: dict[str, Callable[[], Iterable[str]]] = {
        "What was evaluated": lambda: _evaluated(report),
        "What worked": lambda: conclusions("better"),
        "What did not work": lambda: conclusions("worse"),
        "What these numbers leave open": lambda: open_sentences(report, found),
        "Are the heads personal?": lambda: _personal(report),
        "What the gate chose": lambda: _gate(report),
        "What a generator would have to add": lambda: _without_generator(report),
        "Best of N drafts": lambda: filter(None, [best_of_n_sentence(report)]),
        "Who is harmed?": lambda: _harm(report),
        "By length of history": lambda: _history(report),
        "What weighs most": lambda: _features(report),
        "Beware": lambda: _caveats(report),
    }
    written = (Section(title=title, sentences=tuple(sentences())) for title, sentences in sections.items())
    return [section for section in written if section.sentences]


def report_text(report: Report) -> str:
    """Return the report with all systems' scores as text."""
    lines = [*textwrap.wrap(f"{report['run']}: {headline(report)}", _WIDTH), ""]
    evaluated, *others = report_sections(report)
    for section in (evaluated, Section(title="Ladder", sentences=()), *others):
        lines.append(section.title)
        if not section.sentences:
            lines += _system_scores(report)
        for sentence in section.sentences:
            lines += textwrap.wrap(sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
        lines.append("")
    return "\n".join(lines)


def best_of_n_sentence(report: Report) -> str | None:
    """Return what personal heads gain by choosing among drafts, and where that fails; None where it is not known."""
    best = report.get("best_of_n")
    if best is None:
        return None
    first, last = best["points"][0], best["points"][-1]
    one, chosen, oracle = (each["value"] for each in (first["oracle"], last["quality"]["personal"], last["oracle"]))
    gone = f", which is {share((chosen - one) / (oracle - one))} of the way" if oracle > one else ""
    return (
        f"Of {best['mean_drafts']:.1f} distinct drafts a query, one at random has {report['quality_title']} "
        f"{plain_figure(one)}, the best {plain_figure(oracle)}, and the one that personal heads prefer "
        f"{plain_figure(chosen)}{gone}. "
        f"Their choice is worse than one at random on {share_with_bounds(last['hacked_queries']['personal'])} of the "
        f"queries and for {share_with_bounds(last['worse_users']['personal'])} of the users; for "
        f"{share_with_bounds(best['collapsed_users']['personal'])} of the users their scores hardly tell drafts apart."
    )


def _evaluated(report: Report) -> Iterator[str]:
    task, config = report["task"], report["config"]
    kind = f"{task['kind']}, {len(task['labels'])} labels" if task["labels"] else task["kind"]
    num_folds = config["users"]["num_folds"]
    newness = (
        f"each of them new in one of {num_folds} folds" if num_folds > 1 else "of whose queries nothing was learned"
    )
    yield (
        f"Task {task['name']} ({kind}): {counted(report['num_users'], 'user')}, {newness}, with "
        f"{counted(report['num_queries'], 'judged query', 'judged queries')}."
    )
    if config["generator"]["engine"] == "none":
        yield "No generator: records, the label model and own heads answer, at no cost."
    elif task["kind"] == "preference":
        yield (
            f"Generator: {generator_text(config)}. It drafts candidates where a query brings none; what chooses among "
            "candidates asks nobody."
        )
    else:
        yield (
            f"Generator: {generator_text(config)}. {config['probes']['num_records']} records are retrieved for a "
            f"query, {config['drafts']['num_records']} stand in a prompt, and "
            f"{config['drafts']['num_samples']} samples are drawn."
        )
    if plugins := report.get("plugins"):
        named = ", ".join(f"{each['name']} ({each['setting']})" for each in plugins)
        yield f"Functions of other packages: {named}."
    intervals = f"{percent(report)} intervals by {report['bootstrap']['num_resamples']:,} bootstrap resamples of users"
    tests = sorted({test["test"] for family in report["significance"].values() for test in family.values()})
    if tests:
        intervals += (
            f"; p-values by the {' or the '.join(tests)} test over users, Holm's correction for each first system"
        )
    yield f"{intervals}."


def _system_scores(report: Report) -> Iterator[str]:
    main = report["metrics"][0]
    width = max(len(system["title"]) for system in report["systems"].values())
    tests = report["significance"].get(HYDRA, {})
    yield f"  {'':{width}}  {main['title']}" + ("" if main["is_higher_better"] else " (lower is better)")
    for name, system in report["systems"].items():
        figure = system["metrics"][main["name"]]
        bounds = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
        yield f"  {system['title']:{width}}  {plain_figure(figure['value'])}{bounds}{_tested(report, tests, name)}"
    if tests:
        yield "  Where nothing is said, no difference to HYDRA is shown."


def _tested(report: Report, tests: Mapping[str, Any], name: str) -> str:
    """Return whether HYDRA differs from a system, with the corrected p-value where it does."""
    if name not in tests:
        return ""
    found = pair_verdict(report, HYDRA, name)
    return "" if found == "open" else f"  HYDRA {found}, {p_value(tests[name]['adjusted_p_value'])} (Holm)"


def _personal(report: Report) -> Iterator[str]:
    found = [each for conclusion in CONTROL_CONCLUSIONS if (each := conclusion_of(report, conclusion)) is not None]
    yield from (each.sentence for each in found if each.verdict != "open")
    yield from open_sentences(report, found)
    if any(each.verdict == "open" and each.is_about_others for each in found):
        yield "No loss with another user's heads can be shown, so it is not shown that the heads are personal."
    for each in report["changed_answers"]:
        changed = f"{each['changed']:,} of {counted(each['num_queries'], 'query', 'queries')}"
        yield (
            f"{report['systems'][each['first']]['title']} and {report['systems'][each['second']]['title']} answer "
            f"{changed} differently ({share(each['changed'] / each['num_queries'])}): {each['better']:,} better, "
            f"{each['worse']:,} worse with the own heads."
        )


def _gate(report: Report) -> Iterator[str]:
    if not report["config"]["answers"]["is_gated"]:
        return
    for choice, found in sorted(report["gate"].items(), key=lambda entry: -entry[1]["num_queries"]):
        systems = report["systems"]
        title = systems[choice]["title"] if choice in systems else choice
        qualities = ", ".join(
            f"{systems[name]['title']} {plain_figure(value)}" for name, value in found["quality"].items()
        )
        yield (
            f"{title} for {found['num_queries']:,} of {counted(report['num_queries'], 'query', 'queries')}, where "
            f"{report['quality_title']} is: {qualities}."
        )
        if found["reasons"]:
            yield f"A reason it gave for {title}: {found['reasons'][0]}"


def _without_generator(report: Report) -> Iterator[str]:
    """Yield what is known, without having asked one, of what a generator would be worth; preferences need none."""
    config = report["config"]
    if config["generator"]["engine"] != "none" or report["task"]["kind"] == "preference":
        return
    own = report["systems"][HYDRA]["quality"]["value"]
    yield (
        f"Records alone reach {report['quality_title']} {plain_figure(own)} without a request: a generator is worth "
        f"its price where it lifts that, of which {plain_figure(1 - own)} is left."
    )
    change = report["differences"][HYDRA].get("text_only", {}).get(report["metrics"][0]["name"])
    if change is not None and change["low"] is not None:
        yield (
            f"On these {counted(report['num_queries'], 'query', 'queries')} of "
            f"{counted(report['num_users'], 'user')} a change of less than about "
            f"{plain_figure((change['high'] - change['low']) / 2)} in {report['metrics'][0]['title']} cannot be told "
            "from chance."
        )
    per_query = (
        config["probes"]["num_records"] + len(config["drafts"]["prompts"]) + len(config["drafts"]["sampled_prompts"])
    )
    yield (
        f"With this configuration one would be asked about {per_query * report['num_queries']:,} times for these "
        "queries alone; `hydra-ray plan` with the generator's settings tells requests, tokens and cost of all."
    )


def _harm(report: Report) -> Iterator[str]:
    harm = report["harm"]
    phrases = {"better": "less often", "worse": "more often", "open": "and no difference between the two can be shown"}
    if harm is not None:
        rival = report["systems"][harm["rival"]]["title"]
        yield (
            f"How much the generator differs from itself: of two samples with {rival}, one is worse than the other on "
            f"{share_with_bounds(harm['resampled_worse'])} of {counted(harm['num_queries'], 'query', 'queries')}."
        )
        for name, figures in harm["systems"].items():
            change = figures["minus_resampled"]
            bounds = "" if change["low"] is None else f", [{share(change['low'])} to {share(change['high'])}]"
            yield (
                f"{report['systems'][name]['title']} is worse than {rival} on {share_with_bounds(figures['worse'])}, "
                f"{phrases[_less_is_better(change)]} (difference {share(change['value'])}{bounds})."
            )
    yield from _worst(report)


def _less_is_better(change: Report) -> str:
    if change["low"] is None or change["low"] <= 0 <= change["high"]:
        return "open"
    return "better" if change["high"] < 0 else "worse"


def _worst(report: Report) -> Iterator[str]:
    worst = report["worst_decile"]
    if "rival" not in worst:
        return
    rival = report["systems"][worst["rival"]]["title"]
    users = f"the {counted(worst['num_users'], 'user')} (a tenth)"
    yield (
        f"Of all users, {users} who lose most by HYDRA in place of {rival} change by "
        f"{signed_figure(worst['change_by_hydra'])} in {report['quality_title']}; {users} who would lose most by "
        f"{rival} in place of HYDRA, by {signed_figure(worst['change_by_rival'])}."
    )
    yield (
        f"The tenth of the users that is worst off has {report['quality_title']} "
        f"{plain_figure(worst['quality'][HYDRA])} with HYDRA and {plain_figure(worst['quality'][worst['rival']])} with "
        f"{rival}."
    )


def _history(report: Report) -> Iterator[str]:
    for point in report["history_curve"]["points"]:
        gain = point.get("gain")
        if gain is not None and gain["low"] is not None:
            yield (
                f"{point['label']} records ({counted(point['num_users'], 'user')}): HYDRA {MINUS} "
                f"{report['systems'][RAG]['title']} is {signed_figure(gain['value'])} in {report['quality_title']} "
                f"({percent(report)} interval {signed_bounds(gain)})."
            )


def _features(report: Report) -> Iterator[str]:
    features = report["features"]
    for scorer in dict.fromkeys(feature["scorer"] for feature in features):
        mine = [feature for feature in features if feature["scorer"] == scorer]
        largest = sorted(mine, key=lambda feature: -abs(feature["weight"]))[:_SHOWN_FEATURES]
        listed = ", ".join(f"{feature['name']} {signed_figure(feature['weight'])}" for feature in largest)
        yield f"{scorer}, by standard deviation within a query: {listed}."


def _caveats(report: Report) -> Iterator[str]:
    if 1 < report["num_users"] < _FEW_USERS:
        yield f"Intervals over fewer than {_FEW_USERS} users tend to be too narrow."
    if report["best_prompt_baseline"] is not None:
        yield "Which baseline is best was decided on the evaluated users, which favours it."
    if report["num_unjudged_queries"]:
        without_target = counted(report["num_unjudged_queries"], "query", "queries")
        yield f"Left out for want of a target: {without_target}."
    for stage in report["stages"]:
        if stage["failed_fraction"]:
            yield (
                f"In stage {stage['name']} {stage['failed_fraction']:.1%} of the generator's answers failed or could "
                "not be understood; a system without an answer counts as wrong."
            )
