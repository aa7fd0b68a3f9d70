"""Quality bars: conditions on what is kept of all sets' runs, each passed or failed by the numbers alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from claims import Claim, Difference, below_p_value, difference, not_worse_p_value, pooled_difference
from numpy.typing import NDArray
from own_heads import RIVALS, gain_text, shown
from own_heads import table as own_table
from quality_pieces import Piece

from hydra_ray.config import ReportConfig
from hydra_ray.evaluate.intervals import Interval
from hydra_ray.evaluate.phrases import MINUS, share, signed_with_bounds
from hydra_ray.evaluate.summary import Gain, Pair, Summary, compare_runs, compare_systems, percentage, summarize
from hydra_ray.evaluate.systems import HYDRA, ORACLE, RAG
from hydra_ray.findings import counted

PERSONAL, SHARED, SHUFFLED, ROUTED = "hydra_personal", "hydra_shared", "hydra_shuffled", "hydra_routed"
OWN, RECORDS = "own_heads", "records_only"
NO_RIVALS: Mapping[str, str] = {
    HYDRA: "what is judged",
    PERSONAL: "HYDRA without its gate",
    SHARED: "HYDRA without own heads",
    ROUTED: "HYDRA with routed shared heads in the place of own ones",
    SHUFFLED: "a control: HYDRA with other users' heads",
    "reranker_only": "a part of HYDRA",
    "adapter_only": "a part of HYDRA",
    OWN: "HYDRA without a generator",
    ORACLE: "knows the right answer",
}
"""Systems of a report that are no rivals, each with the reason; every other one is, whatever its kind."""
MIN_GAIN, MIN_LOW_GAIN = 0.20, 0.12
"""Required average relative gain over the strongest rivals, and the lower limit of its interval."""
MAX_BEHIND = 0.005
"""By how much HYDRA may be behind the strongest rival of a set."""
MIN_OWN_GAIN = 0.005
"""Required gain of own heads over the shared head."""
MARGIN = 0.01
"""By how much the gate may lose to the shared head and to greedy RAG."""
JESTER, GATED_SET = "own-jester-wide", "own-lamp3"
"""Pieces of own heads without a generator: where they must gain, and where the gate must say no."""
RIVAL_HEADS = tuple(rival for rival in RIVALS if not rival.startswith("own"))
_ALL = "all users"
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRuns:
    """What is kept of one set's runs; None of what was not measured. Key: name."""

    name: str
    own: Piece | None
    published: Piece | None = None
    """The published method, re-implemented, on the same users."""
    published_greedy: Piece | None = None
    """The same with the greedy answer to RAG among the drafts."""
    published_on_drafts: Piece | None = None
    """The same with HYDRA's drafts."""
    is_closed: bool = True
    """Whether there are labels or ratings to choose from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Result of one bar."""

    title: str
    is_passed: bool | None
    """None where something that it needs was not measured, so that it is neither passed nor failed."""
    verdict: str
    """Numbers that decided, in one sentence or two."""
    details: tuple[str, ...] = ()
    """Paragraphs and tables in Markdown."""
    claims: tuple[Claim, ...] = ()

    @property
    def word(self) -> str:
        """Return PASS, FAIL or NOT MEASURED."""
        return {True: "PASS", False: "FAIL", None: "NOT MEASURED"}[self.is_passed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Where the re-implementation of the published method differs from its authors' code."""

    authors: str
    here: str
    reason: str | None
    """Why it must; None where it is not mended yet, so that the re-implementation is not faithful."""


_ALONE = "a user's head must not depend on which other users are fitted with it"
DEVIATIONS = (
    Deviation(
        authors="a Longformer on 4,096 tokens, all layers trained, with heads of its width 768",
        here="MiniLM on 256 tokens, all layers trained, with heads of its width 384 (paper-longformer.yaml has the "
        "Longformer)",
        reason="two cores: a Longformer's layers are 768 wide and twice as many, and its texts up to 16 times as long",
    ),
    Deviation(
        authors="the first token's last state stands for a text",
        here="the mean of the last states, of length 1, after a rotation that is trained too",
        reason="MiniLM was trained for the mean; paper-longformer.yaml takes the first token's state",
    ),
    Deviation(
        authors="N = 10 records probed for each of M = 10 pseudo-queries",
        here="N = 4 or 5, M = 2 to 5, as HYDRA in the same set",
        reason="two cores: the generator would be asked up to ten times as often",
    ),
    Deviation(
        authors="new users' heads: two passes over the rows of all of them in batches of 64, with dropout",
        here="as many steps (150), each over all of the user's own rows, without dropout",
        reason=_ALONE,
    ),
    Deviation(
        authors="the records of a training user's drafts are chosen by the head that learned from the same queries",
        here="by a head of that user, fitted to the frozen base, that has not seen the query",
        reason="no head chooses for a query that it has learned from, as for new users",
    ),
    Deviation(
        authors="each of the 8 samples is a row, and rows weigh alike",
        here="each distinct answer is a candidate, and the queries of a batch weigh alike",
        reason="candidates are distinct: equal texts have one score",
    ),
    Deviation(
        authors="in text tasks training users' own queries teach too",
        here="their pseudo-queries alone",
        reason="every user is evaluated in one fold, where the target would stand among the candidates",
    ),
    Deviation(
        authors="an answer is right where one text contains the other; the reranker does not see a record's output; "
        "failed requests are left out in silence",
        here="labels are compared exactly; it sees both; failures are counted",
        reason="mended in the rival's favour",
    ),
)
AUTHORS_FIGURE = (
    "The authors report a relative gain of 9.01 % on average over prompt-based methods, on five LaMP tasks (abstract "
    "of arXiv 2406.02888v3). Their users, splits and generator are others than here: it cannot be compared with the "
    "figures of this page."
)


def judge_bars(sets: Sequence[SetRuns], own_heads: Mapping[str, Piece]) -> list[Bar]:
    """Evaluate all bars, in order.

    Args:
        own_heads: pieces of own heads without a generator, by name.

    Raises:
        InputError: runs lack a system or cannot be compared.
    """
    return [
        rivals_bar(sets),
        own_heads_bar(own_heads),
        gate_bar(sets),
        prediction_bar(sets, own_heads),
        published_bar(sets),
    ]


def rivals_bar(sets: Sequence[SetRuns]) -> Bar:
    """Evaluate bar 1: the gain over each set's strongest rival of any kind."""
    title = "Gain over the strongest rival of any kind"
    runs = _measured(sets)
    if not runs:
        return _nothing(title, sets)
    bootstrap = _bootstrap(runs)
    summary = summarize([_pair(run, HYDRA, strongest_rival(run), name) for name, run in runs.items()], bootstrap)
    behind = [gain for gain in summary.gains if gain.difference.value < -MAX_BEHIND - _SAME]
    low = summary.average.low
    is_passed = summary.average.value >= MIN_GAIN and low is not None and low >= MIN_LOW_GAIN and not behind
    room = (
        "" if summary.average_room is None else f" Share of the room to the oracle: {percentage(summary.average_room)}."
    )
    return Bar(
        title=title,
        is_passed=_if_all(sets, runs, is_passed),
        verdict=(
            f"On average {percentage(summary.average)}, where at least {MIN_GAIN:+.0%} is asked for, with the lower "
            f"limit at least {MIN_LOW_GAIN:+.0%}; behind by more than {MAX_BEHIND}: "
            f"{_listed(behind)}.{room}{_missing(sets, runs)}"
        ),
        details=(
            _rivals_table(summary, runs),
            "The room is what the oracle, which knows the best draft, is better than the rival; where it is not "
            "better, there is none. HYDRA answers closed tasks with any label, drafted or not, and can be better than "
            "this oracle.",
            _no_rivals_text(),
            *_by_split(runs, bootstrap),
        ),
        claims=(
            *(
                Claim(
                    text=f"{name}: HYDRA differs from {gain.pair.second}",
                    shown=_signed(_of_pair(gain.pair, bootstrap).figure),
                    p_value=gain.p_value,
                )
                for name, gain in zip(runs, summary.gains, strict=True)
            ),
            Claim(
                text=f"{counted(len(runs), 'set')}: average relative gain over the strongest rivals above "
                f"{MIN_LOW_GAIN:.0%}",
                shown=percentage(summary.average),
                p_value=below_p_value(summary.average_R, MIN_LOW_GAIN),
            ),
        ),
    )


def strongest_rival(run: Piece) -> str:
    """Return the rival of the highest quality on all users of a run."""
    return max(rivals_of(run), key=lambda name: run["systems"][name]["quality"]["value"])


def rivals_of(run: Piece) -> list[str]:
    """Return the systems of a run that are rivals."""
    return [name for name in run["systems"] if name not in NO_RIVALS]


def own_heads_bar(pieces: Mapping[str, Piece]) -> Bar:
    """Evaluate bar 2: own heads gain where there are many records, and the gate says no where they do not."""
    wide, gated = pieces.get(JESTER), pieces.get(GATED_SET)
    missing = [name for name, piece in ((JESTER, wide), (GATED_SET, gated)) if piece is None]
    failures: list[str] = []
    sentences: list[str] = []
    if wide is not None:
        failures += _own_failures(wide)
        sentences += [f"Jester: {_own_sentence(each)}." for each in (wide["figures"][0], wide["figures"][-1])]
        if wide["rise"] is not None:
            sentences.append(f"With the most records it is {shown(wide['rise'])} above that with the fewest.")
    if gated is not None:
        failures += _gated_failures(gated)
        sentences.append(
            f"LaMP_3: own heads are {'on' if gated['is_on'] else 'off'}; ungated, queries show "
            f"{shown(gated['figures'][-1]['rivals']['shared'])}, predicted {shown(gated['predicted_gain']['quality'])}."
        )
    if failures:
        sentences.append(f"Not as asked for: {'; '.join(failures)}.")
    if missing:
        sentences.append(f"Not measured: {', '.join(missing)}.")
    return Bar(
        title="Own heads where people have many records, without a generator",
        is_passed=None if missing else not failures,
        verdict=" ".join(sentences),
        details=tuple(f"{name}. {gain_text(piece)}\n\n{own_table(piece['figures'])}" for name, piece in pieces.items()),
        claims=tuple(
            Claim(
                text=f"{name}: own heads differ from {rival}, {each['asked']}",
                shown=shown(each["rivals"][rival]),
                p_value=each["rivals"][rival]["p_value"],
            )
            for name, piece in pieces.items()
            for each in (piece["figures"][0], piece["figures"][-1])
            for rival in RIVAL_HEADS
        ),
    )


def _own_failures(piece: Piece) -> Iterator[str]:
    """Yield what own heads fail to show: on held-out records, and on queries by all records."""
    for each in (piece["figures"][0], piece["figures"][-1]):
        below = [rival for rival in RIVAL_HEADS if not (each["rivals"][rival]["low"] or 0) > 0]
        if below:
            yield f"on {each['asked']} not shown to be above {', '.join(below)}"
        if each["rivals"]["shared"]["value"] < MIN_OWN_GAIN:
            yield f"on {each['asked']} less than {MIN_OWN_GAIN} above shared"
    if piece["rise"] is None or piece["rise"]["value"] <= 0:
        yield "no rise with the number of records"


def _own_sentence(figure: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    differences = ", ".join(f"{shown(figure['rivals'][rival])} against {rival}" for rival in RIVAL_HEADS)
    return f"on {figure['asked']} {differences}"


def _gated_failures(piece: Piece) -> Iterator[str]:
    if piece["is_on"]:
        yield "the gate does not say no on LaMP_3"
    if not _is_within(piece["figures"][-1]["rivals"]["shared"]["value"], piece["predicted_gain"]["quality"]):
        yield "the ungated difference on LaMP_3 is outside the predicted interval"


def gate_bar(sets: Sequence[SetRuns]) -> Bar:
    """Evaluate bar 3: HYDRA with its gate is not worse than the shared head and than greedy RAG, within the margin."""
    title = "The gate against the shared head and greedy RAG"
    runs = _measured(sets)
    if not runs:
        return _nothing(title, sets)
    bootstrap = _bootstrap(runs)
    failures: list[str] = []
    sentences: list[str] = []
    claims: list[Claim] = []
    details: list[str] = []
    for rival in (SHARED, RAG):
        pairs = {name: _pair(run, HYDRA, rival, name) for name, run in runs.items()}
        by_set = {name: _of_pair(pair, bootstrap) for name, pair in pairs.items()}
        pooled = pooled_difference([(pair.first_U, pair.second_U) for pair in pairs.values()], bootstrap)
        rival_title = next(iter(pairs.values())).second
        failures += [f"{name} against {rival_title}" for name, each in by_set.items() if _is_worse(each.figure)]
        if (pooled.figure.low or 0) < -MARGIN:
            failures.append(f"{_ALL} together against {rival_title}")
        sentences.append(f"Against {rival_title}, all users together: {_signed(pooled.figure)}.")
        differences = {**by_set, _ALL: pooled}
        details.append(f"Against {rival_title}:\n\n{_gate_rows(differences)}")
        sides = {name: (pair.first_U, pair.second_U) for name, pair in pairs.items()}
        together = [np.concatenate(each) for each in zip(*sides.values(), strict=True)]
        claims += [
            Claim(
                text=f"{name}: HYDRA is less than {MARGIN} below {rival_title}",
                shown=_signed(differences[name].figure),
                p_value=not_worse_p_value(first_U, second_U, MARGIN),
            )
            for name, (first_U, second_U) in {**sides, _ALL: together}.items()
        ]
    return Bar(
        title=title,
        is_passed=_if_all(sets, runs, not failures),
        verdict=(
            f"{' '.join(sentences)} Asked for: on each set at least {MINUS}{MARGIN} and not wholly below 0, together a "
            f"lower limit of at least {MINUS}{MARGIN}. Not so: "
            f"{', '.join(failures) or 'nowhere'}.{_missing(sets, runs)}"
        ),
        details=(
            *details,
            "Where no user's answer differs in quality, the limits are Clopper and Pearson's for such users.",
        ),
        claims=tuple(claims),
    )


def _is_worse(figure: Interval) -> bool:
    return figure.value < -MARGIN or (figure.high is not None and figure.high < 0)


def _gate_rows(differences: Mapping[str, Difference]) -> str:
    lines = [f"| set | users | HYDRA {MINUS} rival | better for | worse for | worse {MINUS} better |"]
    lines.append("|---|---:|---|---:|---:|---:|")
    for name, each in differences.items():
        lines.append(
            f"| {name} | {each.num_users} | {_signed(each.figure)} | {each.num_better} | {each.num_worse} | "
            f"{share((each.num_worse - each.num_better) / each.num_users)} |"
        )
    return "\n".join(lines)


def prediction_bar(sets: Sequence[SetRuns], own_heads: Mapping[str, Piece]) -> Bar:
    """Evaluate bar 4: in closed sets own heads gain on queries what histories predict."""
    sets = [each for each in sets if each.is_closed]
    runs = _measured(sets)
    rows: dict[str, tuple[Mapping[str, float], Mapping[str, float]]] = {}
    for name, run in runs.items():
        if run["predicted_gain"] is not None and OWN in run["systems"]:
            realized = _of_pair(_pair(run, OWN, RECORDS, name), _bootstrap(runs)).figure
            rows[name] = (run["predicted_gain"]["quality"], asdict(realized))
    for name, piece in own_heads.items():
        rows[name] = (piece["predicted_gain"]["quality"], piece["figures"][-1]["rivals"]["shared"])
    outside = [name for name, (predicted, realized) in rows.items() if not _is_within(realized["value"], predicted)]
    opposed = [name for name, (predicted, realized) in rows.items() if _are_opposed(predicted, realized)]
    lines = ["| set | predicted by histories | realized on queries | within | of one sign |", "|---|---|---|---|---|"]
    for name, (predicted, realized) in rows.items():
        within, one_sign = ("no" if name in names else "yes" for names in (outside, opposed))
        lines.append(f"| {name} | {shown(predicted)} | {shown(realized)} | {within} | {one_sign} |")
    unknown = [name for name in runs if name not in rows]
    missing = [each.name for each in sets if each.own is None] + [JESTER] * (JESTER not in own_heads)
    return Bar(
        title="What histories predict of own heads in closed sets",
        is_passed=None if missing or unknown else not outside and not opposed,
        verdict=(
            f"Realized outside the predicted interval: {', '.join(outside) or 'nowhere'}; of the other sign where one "
            f"interval excludes 0: {', '.join(opposed) or 'nowhere'}."
            + (f" Not measured: {', '.join(missing)}." if missing else "")
            + (f" Without a prediction: {', '.join(unknown)}." if unknown else "")
        ),
        details=(
            "\n".join(lines),
            "Gain in quality of own heads over the same models without them, no generator in either and no gate. The "
            "interval of the prediction is over training users, and does not hold the chance in the queries.",
        ),
    )


def _is_within(value: float, interval: Mapping[str, float | None]) -> bool:
    low, high = interval["low"], interval["high"]
    return low is not None and high is not None and low <= value <= high


def _are_opposed(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    excludes = any(each["low"] is not None and (each["low"] > 0 or each["high"] < 0) for each in (first, second))
    return excludes and np.sign(first["value"]) != np.sign(second["value"])


def published_bar(sets: Sequence[SetRuns]) -> Bar:
    """Evaluate bar 5: HYDRA is better on every set than the published method, faithfully re-implemented, with the same
    drafts allowed to both.
    """
    title = "Better than the published method, re-implemented, with the same drafts allowed to both"
    by_kind = {
        "the published method, re-implemented": {each.name: each.published for each in sets},
        "the same with greedy RAG among its drafts": {each.name: each.published_greedy for each in sets},
        "the same with HYDRA's drafts": {each.name: each.published_on_drafts for each in sets},
    }
    own = _measured(sets)
    sentences: list[str] = []
    details: list[str] = [deviations_table(), AUTHORS_FIGURE]
    claims: list[Claim] = []
    is_better, is_whole = True, all(each.reason for each in DEVIATIONS)
    if not is_whole:
        sentences.append("No faithful re-implementation was measured: what deviates stands below.")
    for kind, runs in by_kind.items():
        known = {name: run for name, run in runs.items() if run is not None and name in own}
        is_whole = is_whole and len(known) == len(sets)
        if not known:
            sentences.append(f"Against {kind}: not measured.")
            continue
        bootstrap = _bootstrap(own)
        summary = summarize(
            [replace(compare_runs(own[name], run), task=name) for name, run in known.items()], bootstrap
        )
        behind = [gain for gain in summary.gains if gain.difference.value <= _SAME]
        is_better = is_better and not behind
        sentences.append(
            f"Against {kind}: on average {percentage(summary.average)}, not better on: {_listed(behind)}"
            f"{', not measured on ' + ', '.join(set(runs) - set(known)) if len(known) < len(sets) else ''}."
        )
        details.append(f"Against {kind}:\n\n{_rivals_table(summary, own)}")
        claims += [
            Claim(
                text=f"{gain.pair.task}: HYDRA differs from {kind}",
                shown=_signed(_of_pair(gain.pair, bootstrap).figure),
                p_value=gain.p_value,
            )
            for gain in summary.gains
        ]
    return Bar(
        title=title,
        is_passed=is_better if is_whole else None,
        verdict=" ".join(sentences),
        details=tuple(details),
        claims=tuple(claims),
    )


def deviations_table() -> str:
    """Return where the re-implementation of the published method deviates, as a Markdown table."""
    lines = ["| authors' code | re-implementation here | why |", "|---|---|---|"]
    lines += [f"| {each.authors} | {each.here} | {each.reason or 'not mended yet'} |" for each in DEVIATIONS]
    return "\n".join(lines)


def pair_difference(run: Piece, first: str, second: str) -> Difference:
    """Return the difference of two systems of a run."""
    return _of_pair(_pair(run, first, second, run["run"]), ReportConfig.model_validate(run["bootstrap"]))


def _measured(sets: Sequence[SetRuns]) -> dict[str, Piece]:
    return {each.name: each.own for each in sets if each.own is not None}


def _bootstrap(runs: Mapping[str, Piece]) -> ReportConfig:
    return ReportConfig.model_validate(next(iter(runs.values()))["bootstrap"])


def _pair(run: Piece, first: str, second: str, name: str) -> Pair:
    """Compare two systems under the set's name: several sets may have the same task."""
    return replace(compare_systems(run, first, second), task=name)


def _of_pair(pair: Pair, bootstrap: ReportConfig) -> Difference:
    return difference(pair.first_U, pair.second_U, pair.num_queries_U, bootstrap)


def _if_all(sets: Sequence[SetRuns], runs: Mapping[str, Piece], is_passed: bool) -> bool | None:
    return is_passed if len(runs) == len(sets) else None


def _nothing(title: str, sets: Sequence[SetRuns]) -> Bar:
    return Bar(title=title, is_passed=None, verdict=f"None of {', '.join(each.name for each in sets)} was measured.")


def _missing(sets: Sequence[SetRuns], runs: Mapping[str, Piece]) -> str:
    names = [each.name for each in sets if each.name not in runs]
    return f" Not measured: {', '.join(names)}." if names else ""


def _rivals_table(summary: Summary, runs: Mapping[str, Piece]) -> str:
    lines = [
        "| set | users | rival | HYDRA | rival's quality | relative gain | difference | share of the room | p |",
        "|---|---:|---|---:|---:|---|---|---|---:|",
    ]
    for gain in summary.gains:
        pair = gain.pair
        exact = _of_pair(pair, _bootstrap(runs))
        relative = _scaled(exact.figure, gain.second) if exact.is_unchanged else gain.relative
        room = "-" if gain.room is None else percentage(gain.room)
        lines.append(
            f"| {pair.task} | {len(pair.first_U)} | {pair.second} | {gain.first:.3f} | {gain.second:.3f} | "
            f"{percentage(relative)} | {_signed(exact.figure)} | {room} | {gain.p_value:.2g} |"
        )
    room = "-" if summary.average_room is None else percentage(summary.average_room)
    return "\n".join([*lines, f"| average | | | | | {percentage(summary.average)} | | {room} | |"])


def _scaled(figure: Interval, quality: float) -> Interval:
    assert figure.low is not None
    assert figure.high is not None
    return Interval(value=figure.value / quality, low=figure.low / quality, high=figure.high / quality)


def _no_rivals_text() -> str:
    listed = "; ".join(f"`{name}` ({reason})" for name, reason in NO_RIVALS.items())
    return f"A rival is every system of a set's report except {listed}."


def _by_split(runs: Mapping[str, Piece], bootstrap: ReportConfig) -> Iterator[str]:
    """Yield the gains over the strongest rivals for the users of each split that all sets have: where settings were
    tuned on one split, the others show the gain that remains.
    """
    splits = {name: np.array([_split_of(user_id) for user_id in run["users"]["user_id"]]) for name, run in runs.items()}
    names = sorted(set.intersection(*({*own.tolist()} for own in splits.values())) - {""})
    if not names:
        return
    yield "For the users of each split alone; a set's strongest rival is still that of all its users:"
    lines = ["| users | average |" + "".join(f" {each} |" for each in runs), "|---" * (len(runs) + 2) + "|"]
    for split in names:
        pairs = [
            _of_users(_pair(run, HYDRA, strongest_rival(run), name), splits[name] == split)
            for name, run in runs.items()
        ]
        if not all(pair.second_U.any() for pair in pairs):
            continue  # a gain relative to 0 is undefined
        summary = summarize(pairs, bootstrap)
        gains = [f"{percentage(gain.relative)}, {len(gain.pair.first_U):,} users" for gain in summary.gains]
        lines.append("| " + " | ".join([split, percentage(summary.average), *gains]) + " |")
    yield "\n".join(lines)


def _split_of(user_id: str) -> str:
    split, colon, _ = user_id.partition(":")
    return split if colon else ""


def _of_users(pair: Pair, is_kept_U: NDArray[np.bool_]) -> Pair:
    kept = {key: getattr(pair, key)[is_kept_U] for key in ("first_U", "second_U", "num_queries_U")}
    return replace(pair, **kept, oracle_U=None)


def _signed(figure: Interval) -> str:
    return signed_with_bounds(asdict(figure))


def _listed(gains: Sequence[Gain]) -> str:
    return ", ".join(f"{gain.pair.task} ({_signed(gain.difference)})" for gain in gains) or "no set"
