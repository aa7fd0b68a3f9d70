"""QUALITY.md: the bars with the numbers behind them, and all other results, from what is kept of the sets' runs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bars import (
    OWN,
    PERSONAL,
    RECORDS,
    ROUTED,
    SHARED,
    SHUFFLED,
    Bar,
    SetRuns,
    pair_difference,
    strongest_rival,
)
from claims import corrected
from quality_pieces import Piece, frozen_since

from hydra_ray.evaluate.intervals import Interval
from hydra_ray.evaluate.learning_curves import curve_over_runs, curve_table
from hydra_ray.evaluate.phrases import (
    MINUS,
    duration,
    figure_with_bounds,
    p_value,
    percent,
    plain_figure,
    share,
    share_with_bounds,
    signed_figure,
    signed_with_bounds,
)
from hydra_ray.evaluate.summary import percentage
from hydra_ray.evaluate.systems import HYDRA, RAG, SYSTEMS
from hydra_ray.findings import counted

Curves = Mapping[str, Mapping[str, Sequence[Piece]]]
"""What is kept of runs that differ in one setting, by set and dotted setting."""

LADDER = ("text_only", RECORDS, OWN, PERSONAL, HYDRA)
"""Systems of which each adds one thing to the one before it."""
LADDER_STEPS = (
    "text alone",
    "+ history features (records, no generator)",
    "+ own heads",
    "+ generator's evidence",
    "+ gate",
)
_NOT_MEASURED = "not measured"
_TRAIN_USERS, _NUM_RECORDS = "num_train_users", "num_records"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a set is, in plain words. Key: its name."""

    users: str
    origin: str
    licence: str


_LAMP = "CC BY-NC-SA 4.0"
SETS_ABOUT: Mapping[str, About] = {
    "LaMP_2N": About(
        users="authors of news articles; asked for an article's category, one of 15",
        origin="LaMP-2's older news version; histories keep at most 2 to 4 articles of a category, so that they do not "
        "show what an author mostly writes",
        licence=_LAMP,
    ),
    "LaMP_4": About(
        users="authors of news articles; asked for a headline",
        origin="LaMP-4; many texts lost their punctuation at the source",
        licence=_LAMP,
    ),
    "movielens_rating": About(
        users="people who rated films; asked for the stars of a film by its title and plot",
        origin="a stand-in in LaMP-3's format, from MovieLens, stars rounded up, with plots of TMDB",
        licence="the research terms of MovieLens and TMDB",
    ),
    "LaMP_5": About(
        users="authors of papers; asked for the title of an abstract",
        origin="a stand-in: abstracts and titles of LaMP-1's authors recast as LaMP-5; 4 to 9 papers each",
        licence=_LAMP,
    ),
    "LaMP_3": About(
        users="people who reviewed musical instruments; asked for the stars of a review",
        origin="a stand-in in LaMP-3's format, from Amazon reviews of 2014, each person's last review held out; two "
        "thirds of the answers are 5",
        licence="as the collection's, which is not stated with these files",
    ),
    "own-jester-wide": About(
        users="people who rated jokes",
        origin="Jester, as packaged in recommenderlab, ratings cut into 1 to 5",
        licence="not stated where it was found",
    ),
    "own-jester-pairs-wide": About(
        users="other people who rated jokes; asked which of two is funnier",
        origin="Jester, as above, pairs of jokes that a person rated differently",
        licence="not stated where it was found",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that the page shows."""

    sets: Sequence[SetRuns]
    own_heads: Mapping[str, Piece] = field(default_factory=dict)
    """Own heads without a generator, by name."""
    planted: Mapping[str, Piece] = field(default_factory=dict)
    """Runs on planted samples, by name."""
    curves: Curves = field(default_factory=dict)
    frozen: Mapping[str, Any] | None = None
    """Content of settings.json; None where no settings are frozen."""


def quality_page(measured: Measured, bars: Sequence[Bar]) -> str:
    """Return the page in Markdown."""
    sections = ["# Quality", *_about(measured), _verdicts(bars), "## All systems", _systems_table(measured.sets)]
    for number, bar in enumerate(bars, start=1):
        sections += [f"## Bar {number}: {bar.title}", f"**{bar.word}.** {bar.verdict}", *bar.details]
    sections += ["## All claims, corrected together", *_claims_section(bars)]
    sections += ["## What each part adds", *_ladder_section(measured.sets)]
    sections += ["## What the gate chose", *_gate_section(measured.sets)]
    sections += ["## Personal heads in HYDRA", *_heads_section(measured.sets)]
    sections += ["## Best of N drafts", *_best_of_n_section(measured.sets)]
    sections += ["## How often an answer is worse than RAG's", *_harm_section(measured.sets)]
    sections += ["## Planted preferences", *_planted_section(measured.planted)]
    sections += ["## By length of history", *_history_section(measured.sets)]
    sections += ["## By setting", *_curves_section(measured.curves)]
    sections += ["## What was measured when", *_pieces_section(measured)]
    return "\n\n".join(sections) + "\n"


def bar_lines(bars: Sequence[Bar]) -> Iterator[str]:
    """Yield each bar with its verdict as a line of text."""
    for number, bar in enumerate(bars, start=1):
        yield f"{bar.word}  {number}. {bar.title}. {bar.verdict}"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _about(measured: Measured) -> Iterator[str]:
    runs = _own_runs(measured.sets)
    folds = sorted({run["config"]["users"]["num_folds"] for run in runs.values()})
    in_folds = f", once in {' or '.join(map(str, folds))} folds" if folds else ""
    generators = sorted({run["config"]["generator"]["model"] for run in runs.values()})
    asked = f" The generator is {' or '.join(generators)}." if generators else ""
    level = percent(next(iter(runs.values()))) if runs else "95%"
    yield (
        "The users are real people: authors of news articles and of papers, people who rated films or jokes or "
        "reviewed musical instruments, a few dozen to a few hundred of each set. Each is answered as a new "
        f"user{in_folds}: bases, shared heads and gate learn from the users of the other folds.{asked} Three of the "
        "five sets are stand-ins, made of other collections in the format of the benchmark whose name they have (the "
        "table says which, and under which licence). Settings were chosen by results on people among those evaluated "
        "here, of both splits; so these figures may flatter HYDRA, and only people who were kept back can tell. "
        "Settings that were frozen before a measurement show that it did not choose them, not that earlier ones did "
        f"not. Brackets are {level} intervals from resampling users. They hold fixed the division into folds, the "
        "generator's drafts, the trained bases and heads, and the choice of each set's strongest rival; so they say "
        "how much the figures vary over people, and not over runs."
    )
    yield "Written by `make quality` from what is kept of finished runs in `benchmarks/results/quality`."
    rows = [
        [each.name, _num_users(each.own), about.users, about.origin, about.licence]
        for each in measured.sets
        if (about := SETS_ABOUT.get(each.name)) is not None
    ]
    rows += [
        [name, str(piece["num_new"]), about.users, about.origin, about.licence]
        for name, piece in measured.own_heads.items()
        if (about := SETS_ABOUT.get(name)) is not None
    ]
    yield table(["set", "users", "who they are", "what the set is", "licence"], rows)


def _num_users(run: Piece | None) -> str:
    return _NOT_MEASURED if run is None else f"{run['num_users']:,}"


def _verdicts(bars: Sequence[Bar]) -> str:
    rows = [[str(number), bar.title, bar.word, bar.verdict] for number, bar in enumerate(bars, start=1)]
    return table(["bar", "what is asked", "verdict", "in numbers"], rows)


def _systems_table(sets: Sequence[SetRuns]) -> str:
    runs = _own_runs(sets)
    present = [name for name in SYSTEMS if any(name in run["systems"] for run in runs.values())]
    rows = [[_title(runs.values(), name), *(_system_cell(each.own, name) for each in sets)] for name in present]
    rows += [
        [title, *(_published_cell(run, name) for run in published)]
        for title, name, published in (
            ("Published method, re-implemented", HYDRA, [each.published for each in sets]),
            ("Published method, re-implemented, routed shared heads", ROUTED, [each.published for each in sets]),
            ("Published method, re-implemented, greedy RAG too", HYDRA, [each.published_greedy for each in sets]),
            ("Published method, re-implemented, HYDRA's drafts", HYDRA, [each.published_on_drafts for each in sets]),
        )
    ]
    titles = {each.name: each.own["quality_title"] if each.own else _NOT_MEASURED for each in sets}
    heads = [f"{name}<br>{title}" for name, title in titles.items()]
    note = "Bold: HYDRA, and the strongest rival of each set.\n\n"
    return note + table(["system", *heads], rows)


def _title(runs: Iterable[Piece], name: str) -> str:
    """Return the system's title, or all its titles if the runs differ, as in numbers of samples."""
    systems = (run["systems"].get(name) for run in runs)
    return " / ".join(dict.fromkeys(system["title"] for system in systems if system))


def _system_cell(run: Piece | None, name: str) -> str:
    if run is None:
        return _NOT_MEASURED
    if name not in run["systems"]:
        return ""
    shown = figure_with_bounds(run["systems"][name]["quality"])
    return f"**{shown}**" if name in (HYDRA, strongest_rival(run)) else shown


def _published_cell(run: Piece | None, name: str) -> str:
    return _NOT_MEASURED if run is None else figure_with_bounds(run["systems"][name]["quality"])


def _claims_section(bars: Sequence[Bar]) -> Iterator[str]:
    claims = [claim for bar in bars for claim in bar.claims]
    if not claims:
        yield "None was measured."
        return
    yield (
        f"Holm's correction (1979) over the {counted(len(claims), 'claim')} of this page: where the corrected p is "
        "below 0.05 the claim counts as shown, and the chance that any of these is wrong is below 5 %. p of "
        "differences: two-sided, by user (exact McNemar where every quality is 0 or 1, else paired t); of claims that "
        "a figure is above a bound: one-sided."
    )
    rows = [
        [claim.text, claim.shown, p_value(claim.p_value), p_value(each), "yes" if each < 0.05 else "no"]
        for claim, each in zip(claims, corrected(claims), strict=True)
    ]
    yield table(["claim", "figure", "p", "corrected", "shown"], rows)


def _ladder_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    yield (
        "Quality, and in parentheses the difference from the step above. A step that the set's report does not have is "
        "empty: texts need a generator."
    )
    rows = [[step, *(_ladder_cell(each.own, place) for each in sets)] for place, step in enumerate(LADDER_STEPS)]
    yield table(["step", *(each.name for each in sets)], rows)


def _ladder_cell(run: Piece | None, place: int) -> str:
    if run is None:
        return _NOT_MEASURED
    name, present = LADDER[place], [each for each in LADDER[:place] if each in run["systems"]]
    if name not in run["systems"]:
        return ""
    quality = plain_figure(run["systems"][name]["quality"]["value"])
    if not present:
        return quality
    return f"{quality} ({_signed(pair_difference(run, name, present[-1]).figure)})"


def _gate_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    runs = _own_runs(sets)
    if not runs:
        yield f"{_NOT_MEASURED.capitalize()}."
        return
    choices = list(dict.fromkeys(choice for run in runs.values() for choice in run["gate"]))
    rows: list[list[str]] = []
    for name, run in runs.items():
        gate = run["gate"]
        cells = [share(gate[c]["num_queries"] / run["num_queries"]) if c in gate else "0" for c in choices]
        rows.append([name, *cells, *(plain_figure(run["systems"][each]["quality"]["value"]) for each in _GATED)])
    first = next(iter(runs.values()))
    titles = [first["systems"].get(choice, {"title": choice})["title"] for choice in choices]
    yield table(
        ["set", *(f"queries by {title}" for title in titles), *(f"quality of {each}" for each in _GATED.values())], rows
    )


_GATED = {HYDRA: "HYDRA with the gate", PERSONAL: "personal heads", SHARED: "the shared head"}


def _heads_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    rivals = {SHARED: "shared", ROUTED: "routed", SHUFFLED: "others', shuffled"}
    rows: list[list[str]] = []
    for name, run in _own_runs(sets).items():
        changed = next(row for row in run["changed_answers"] if row["second"] == SHARED)
        rows.append(
            [
                name,
                *(_signed(pair_difference(run, PERSONAL, rival).figure) for rival in rivals),
                share(changed["changed"] / changed["num_queries"]),
                str(changed["better"]),
                str(changed["worse"]),
            ]
        )
    if not rows:
        yield f"{_NOT_MEASURED.capitalize()}."
        return
    heads = [f"personal {MINUS} {title}" for title in rivals.values()]
    yield table(["set", *heads, "answers that own heads change from the shared head's", "better", "worse"], rows)


_BEST_OF = (1, 2, 4, 8, 16, 32)
"""Numbers of drafts that have a column."""
_FOLLOWED = "personal"
"""Head whose choices are followed."""


def _best_of_n_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    yield (
        "Expected quality of the draft that personal heads prefer among N of a query's distinct drafts, drawn at "
        "random; the oracle prefers the best one. The failures are those of Zhang and He (2026, arXiv 2605.10991), "
        "with thresholds of our own: a query is hacked where the preferred one of all drafts is worse than one at "
        "random, and a user's scores are collapsed where they spread within a query less than a tenth as far as the "
        "median user's."
    )
    titles = [
        "set",
        "drafts a query",
        *(f"N = {size}" for size in _BEST_OF),
        "all",
        "oracle of all",
        "queries hacked",
        "users worse off than at random",
        "users collapsed",
    ]
    rows = [
        [name, *(_best_of_n_cells(found) if found is not None else [_NOT_MEASURED] * (len(titles) - 1))]
        for name, run in _own_runs(sets).items()
        for found in [run.get("best_of_n")]
    ]
    yield table(titles, rows) if rows else f"{_NOT_MEASURED.capitalize()}."


def _best_of_n_cells(found: Mapping[str, Any]) -> list[str]:
    last = found["points"][-1]
    qualities = {point["num_drafts"]: plain_figure(point["quality"][_FOLLOWED]["value"]) for point in found["points"]}
    return [
        f"{found['mean_drafts']:.1f}",
        *(qualities.get(size, "") for size in _BEST_OF),
        figure_with_bounds(last["quality"][_FOLLOWED]),
        figure_with_bounds(last["oracle"]),
        share_with_bounds(last["hacked_queries"][_FOLLOWED]),
        share_with_bounds(last["worse_users"][_FOLLOWED]),
        share_with_bounds(found["collapsed_users"][_FOLLOWED]),
    ]


def _harm_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    rows = [
        [
            name,
            f"{harm['num_queries']:,}",
            share_with_bounds(harm["systems"][HYDRA]["worse"]),
            share_with_bounds(harm["resampled_worse"]),
            percentage(Interval(**harm["systems"][HYDRA]["minus_resampled"])),
        ]
        for name, run in _own_runs(sets).items()
        if (harm := run["harm"]) is not None
    ]
    if not rows:
        yield f"{_NOT_MEASURED.capitalize()}."
        return
    yield (
        "RAG here is the greedy answer. The second column has how often one of two samples of RAG at its temperature "
        "is worse than the other: what chance alone does. No bar depends on it, since two samples differ more than a "
        "greedy answer should."
    )
    yield table(["set", "queries", "HYDRA worse than RAG", "one sample of RAG worse than another", "difference"], rows)


def _planted_section(planted: Mapping[str, Piece]) -> Iterator[str]:
    if not planted:
        yield f"{_NOT_MEASURED.capitalize()} (`--planted`)."
        return
    ordered = sorted(planted, key=lambda name: (_size(planted[name])[_NUM_RECORDS], _size(planted[name])[_TRAIN_USERS]))
    shown = [name for name in ordered if pair_difference(planted[name], PERSONAL, SHARED).figure.is_above_zero]
    yield (
        "Made-up users whose preferences are known, in samples of several sizes; no bar depends on them. Personal "
        f"heads are shown to be better than shared ones in {len(shown)} of {counted(len(planted), 'sample')}: "
        f"{', '.join(shown) or 'none'}."
    )
    names = (RAG, SHARED, ROUTED, PERSONAL, SHUFFLED)
    rows = [
        [
            name,
            str(_size(planted[name])[_NUM_RECORDS]),
            str(_size(planted[name])[_TRAIN_USERS]),
            str(planted[name]["num_users"]),
            *(plain_figure(planted[name]["systems"][each]["quality"]["value"]) for each in names),
            *(_signed(pair_difference(planted[name], PERSONAL, each).figure) for each in (SHARED, ROUTED, SHUFFLED)),
        ]
        for name in ordered
    ]
    heads = ["RAG", "shared", "routed", "personal", "shuffled"]
    heads += [f"personal {MINUS} {each}" for each in ("shared", "routed", "shuffled")]
    yield table(["sample", "records a user", "training users", "new users", *heads], rows)


def _size(run: Piece) -> Mapping[str, int]:
    return run["config"]["lamp"]["planted"]


def _history_section(sets: Sequence[SetRuns]) -> Iterator[str]:
    runs = _own_runs(sets)
    if not runs:
        yield f"{_NOT_MEASURED.capitalize()}."
    for name, run in runs.items():
        if len(run["history_curve"]["points"]) > 1:
            yield f"{name}, {run['quality_title']}:"
            yield curve_table(run["history_curve"], "records")


def _curves_section(curves: Curves) -> Iterator[str]:
    if not curves:
        yield f"{_NOT_MEASURED.capitalize()} (`--curves`)."
    for name, by_setting in curves.items():
        for setting, runs in by_setting.items():
            yield f"{name}, {runs[0]['quality_title']}:"
            yield curve_table(curve_over_runs(runs, setting), f"`{setting}`")


def _pieces_section(measured: Measured) -> Iterator[str]:
    """Yield when each piece was measured, whether its settings were frozen before, and its seconds by stage."""
    pieces = _all_pieces(measured)
    frozen = measured.frozen
    yield (
        "No settings are frozen."
        if frozen is None
        else f"Settings frozen on {frozen['frozen']}, those that were the same before since an earlier time "
        "(`benchmarks/results/quality/settings.json`)."
    )
    rows = [
        [name, piece["measured"], _freeze_verdict(name, piece, frozen), duration(piece["seconds"]), piece["machine"]]
        for name, piece in pieces.items()
    ]
    missing = [
        [f"{each.name}, {kind}", _NOT_MEASURED, "", "", ""]
        for each in measured.sets
        for kind, run in (
            ("HYDRA", each.own),
            ("published method, re-implemented", each.published),
            ("published method, re-implemented, greedy RAG too", each.published_greedy),
            ("published method, re-implemented, HYDRA's drafts", each.published_on_drafts),
        )
        if run is None
    ]
    yield table(["piece", "measured", "with settings that were frozen before", "took", "machine"], [*rows, *missing])
    spent = {name: _seconds(piece) for name, piece in pieces.items() if "stages" in piece}
    if spent:
        stages = list(dict.fromkeys(stage for counts in spent.values() for stage in counts))
        yield "Seconds of computing each stage once, also where a later run reused it:"
        yield table(
            ["run", *stages, "together"],
            [
                [run, *(f"{counts[stage]:.0f}" for stage in stages), f"{sum(counts.values()):.0f}"]
                for run, counts in spent.items()
            ],
        )


def _all_pieces(measured: Measured) -> dict[str, Piece]:
    runs = [
        run
        for each in measured.sets
        for run in (each.own, each.published, each.published_greedy, each.published_on_drafts)
        if run is not None
    ]
    return {
        **{run["run"]: run for run in runs},
        **measured.own_heads,
        **{run["run"]: run for run in measured.planted.values()},
    }


def _freeze_verdict(name: str, piece: Piece, frozen: Mapping[str, Any] | None) -> str:
    if frozen is None:
        return "no: none are frozen"
    if frozen["digests"].get(name) != piece["settings_digest"]:
        return "no: they were others"
    # Times of this form are in the order of their texts.
    return "yes" if piece["measured"] >= frozen_since(frozen, name) else "no: it was measured before"


def _seconds(run: Piece) -> Counter[str]:
    """Return the seconds of a run's stages, those of a scorer together: "reranker.base" is a part of "reranker"."""
    counts: Counter[str] = Counter()
    for stage in run["stages"]:
        counts[stage["name"].split(".")[0]] += stage["seconds"]
    return counts


def _own_runs(sets: Sequence[SetRuns]) -> dict[str, Piece]:
    return {each.name: each.own for each in sets if each.own is not None}


def _signed(figure: Interval) -> str:
    if figure.low is None:
        return signed_figure(figure.value)
    return signed_with_bounds({"value": figure.value, "low": figure.low, "high": figure.high})
