"""Quality bars: conditions on the finished runs of all sets, each passed or failed by the numbers alone."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hydra_ray.config import ReportConfig
from hydra_ray.evaluate.intervals import Interval
from hydra_ray.evaluate.phrases import MINUS, Report, share, share_with_bounds, signed_with_bounds
from hydra_ray.evaluate.summary import (
    Gain,
    Pair,
    Summary,
    compare_runs,
    compare_systems,
    percentage,
    summarize,
    summary_table,
)
from hydra_ray.evaluate.systems import HYDRA
from hydra_ray.findings import counted

PERSONAL, SHARED, SHUFFLED, ROUTED = "hydra_personal", "hydra_shared", "hydra_shuffled", "hydra_routed"
MIN_GAIN = 0.25
"""Required average relative gain over the best prompt-based system."""
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRuns:
    """Finished runs of one set, as the contents of their metrics.json. Key: name."""

    name: str
    default: Report
    paper: Report | None
    """Run of the published method; None if it was not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Result of one bar."""

    title: str
    is_passed: bool
    verdict: str
    """Numbers that decided, in one sentence."""
    details: tuple[str, ...]
    """Paragraphs and tables in Markdown."""

    @property
    def word(self) -> str:
        """Return PASS or FAIL."""
        return "PASS" if self.is_passed else "FAIL"


def judge_bars(sets: Sequence[SetRuns], planted: Report | None) -> list[Bar]:
    """Evaluate all bars, in order.

    Args:
        planted: run on users whose preferences are known; None if there is none.

    Raises:
        InputError: runs lack a system or cannot be compared.
    """
    bootstrap = ReportConfig.model_validate(sets[0].default["bootstrap"])
    return [
        prompt_bar(sets, bootstrap),
        rivals_bar(sets, bootstrap),
        personal_bar(sets, planted, bootstrap),
        harm_bar(sets),
    ]


def prompt_bar(sets: Sequence[SetRuns], bootstrap: ReportConfig) -> Bar:
    """Evaluate bar 1: HYDRA gains enough over each set's best prompt-based system, and is significantly worse on no
    set.
    """
    summary = _summary(sets, lambda each: compare_systems(each.default), bootstrap)
    worse = [gain for gain in summary.gains if _is_below_zero(gain.difference)]
    return Bar(
        title="Gain over the best prompt-based system",
        is_passed=summary.average.value >= MIN_GAIN and not worse,
        verdict=(
            f"On average {percentage(summary.average)}, where at least {MIN_GAIN:+.0%} is asked for; below by more "
            f"than the interval: {_listed(worse)}."
        ),
        details=(summary_table(summary), *_by_split(sets, bootstrap)),
    )


def rivals_bar(sets: Sequence[SetRuns], bootstrap: ReportConfig) -> Bar:
    """Evaluate bar 2: HYDRA is at least as good as the published method and as routed shared heads on every set, and
    better than each on average, with an interval that excludes 0.

    Routed shared heads occur twice: with HYDRA's drafts and features, which makes the strongest rival, and with those
    of the published method, as in arXiv 2610.08330.
    """
    summaries = {
        "routed shared heads": _summary(sets, lambda each: compare_systems(each.default, HYDRA, ROUTED), bootstrap)
    }
    missing = [each.name for each in sets if each.paper is None]
    if len(missing) < len(sets):
        known = [each for each in sets if each.paper is not None]
        summaries["the published method"] = _summary(known, partial(_against_paper, rival=HYDRA), bootstrap)
        rival = "routed shared heads with the published method's drafts and features"
        summaries[rival] = _summary(known, partial(_against_paper, rival=ROUTED), bootstrap)
    sentences = [
        f"Against {rival}: on average {percentage(summary.average)}, "
        f"{'' if _is_above_zero(summary.average) else 'which does not exclude 0, '}behind: {_listed(_behind(summary))}."
        for rival, summary in summaries.items()
    ]
    if missing:
        sentences.append(f"The published method was not run on {', '.join(missing)}.")
    return Bar(
        title="At least as good as the published method and as routed shared heads",
        is_passed=not missing
        and all(_is_above_zero(each.average) and not _behind(each) for each in summaries.values()),
        verdict=" ".join(sentences),
        details=tuple(f"Against {rival}:\n\n{summary_table(summary)}" for rival, summary in summaries.items()),
    )


def personal_bar(sets: Sequence[SetRuns], planted: Report | None, bootstrap: ReportConfig) -> Bar:
    """Evaluate bar 3: personal heads are significantly worse than shared ones on no set, and better than shared and
    shuffled heads on each set or on the planted sample.
    """
    summaries = {
        rival: _summary(sets, lambda each, rival=rival: compare_systems(each.default, PERSONAL, rival), bootstrap)
        for rival in (SHARED, SHUFFLED)
    }
    shared, shuffled = (summaries[rival].gains for rival in (SHARED, SHUFFLED))
    worse = [gain for gain in shared if _is_below_zero(gain.difference)]
    too_small = [gain for gain in shared if _is_open(gain.difference)]
    not_own = [gain for gain in shuffled if not _is_above_zero(gain.difference)]
    sentences = [
        f"Personal {MINUS} shared heads is on average {percentage(summaries[SHARED].average)}; personal heads are "
        f"shown to be worse on: {_listed(worse)}; too small to tell them apart: {_listed(too_small)}; not shown "
        f"to be better than shuffled heads: {_listed(not_own)}."
    ]
    is_separated = planted is not None and all(
        _is_above_zero(_difference(planted, PERSONAL, rival)) for rival in (SHARED, SHUFFLED)
    )
    sentences.append(_planted_sentence(planted, is_separated))
    return Bar(
        title="Personal heads against shared and shuffled ones",
        is_passed=not worse and (is_separated or not (too_small or not_own)),
        verdict=" ".join(sentences),
        details=(_personal_table(sets, summaries),),
    )


def harm_bar(sets: Sequence[SetRuns]) -> Bar:
    """Evaluate bar 4: HYDRA is worse than RAG no more often than one of two resampled RAG answers is worse than the
    other.
    """
    harms = {each.name: each.default["harm"] for each in sets}
    unknown = [name for name, harm in harms.items() if harm is None]
    known = {name: harm for name, harm in harms.items() if harm is not None}
    excess = {name: Interval(**harm["systems"][HYDRA]["minus_resampled"]) for name, harm in known.items()}
    harmed = [f"{name} ({percentage(each)})" for name, each in excess.items() if each.value > _SAME]
    lines = ["| set | queries | HYDRA worse than RAG | resampled RAG worse than itself | difference |"]
    lines.append("|---|---:|---|---|---|")
    for name, harm in known.items():
        worse, resampled = harm["systems"][HYDRA]["worse"], harm["resampled_worse"]
        lines.append(
            f"| {name} | {harm['num_queries']:,} | {share_with_bounds(worse)} | {share_with_bounds(resampled)} | "
            f"{percentage(excess[name])} |"
        )
    found = f"More often worse than RAG than resampled RAG is than itself on: {', '.join(harmed) or 'no set'}."
    return Bar(
        title="Nobody is harmed by design",
        is_passed=not harmed and not unknown,
        verdict=found + (f" Without samples to tell: {', '.join(unknown)}." if unknown else ""),
        details=("\n".join(lines),),
    )


def _summary(sets: Sequence[SetRuns], pair: Callable[[SetRuns], Pair], bootstrap: ReportConfig) -> Summary:
    """Summarize a comparison on every set, under the sets' names: several sets may have the same task."""
    return summarize([replace(pair(each), task=each.name) for each in sets], bootstrap)


def _by_split(sets: Sequence[SetRuns], bootstrap: ReportConfig) -> Iterator[str]:
    """Yield the gains over prompts for the users of each split that all sets have: where settings were tuned on one
    split, the others show the gain that remains.
    """
    splits = {
        each.name: np.array([_split_of(user_id) for user_id in each.default["users"]["user_id"]]) for each in sets
    }
    names = sorted(set.intersection(*({*own.tolist()} for own in splits.values())) - {""})
    if not names:
        return
    yield "For the users of each split alone; a set's best prompt-based system is still that of all its users:"
    lines = ["| users | average |" + "".join(f" {each.name} |" for each in sets), "|---" * (len(sets) + 2) + "|"]
    for name in names:
        pairs = [_of_users(compare_systems(each.default), splits[each.name] == name, each.name) for each in sets]
        if not all(pair.second_U.any() for pair in pairs):
            continue  # a gain relative to 0 is undefined
        summary = summarize(pairs, bootstrap)
        gains = [f"{percentage(gain.relative)}, {len(gain.pair.first_U):,} users" for gain in summary.gains]
        lines.append("| " + " | ".join([name, percentage(summary.average), *gains]) + " |")
    yield "\n".join(lines)


def _split_of(user_id: str) -> str:
    split, colon, _ = user_id.partition(":")
    return split if colon else ""


def _of_users(pair: Pair, is_kept_U: NDArray[np.bool_], name: str) -> Pair:
    kept = {key: getattr(pair, key)[is_kept_U] for key in ("first_U", "second_U", "num_queries_U")}
    return replace(pair, task=name, **kept)


def _against_paper(each: SetRuns, rival: str) -> Pair:
    assert each.paper is not None
    return compare_runs(each.default, each.paper, system_second=rival)


def _difference(report: Report, first: str, second: str) -> Interval:
    pair = compare_systems(report, first, second)
    return summarize([pair], ReportConfig.model_validate(report["bootstrap"])).gains[0].difference


def _planted_sentence(planted: Report | None, is_separated: bool) -> str:
    if planted is None:
        return "The planted sample was not run, so it separates nothing."
    differences = " and ".join(
        f"{_signed(_difference(planted, PERSONAL, rival))} against {name}"
        for rival, name in ((SHARED, "shared"), (SHUFFLED, "shuffled heads"))
    )
    verb = "separates" if is_separated else "does not separate"
    return f"The planted sample ({counted(planted['num_users'], 'new user')}) {verb} them: {differences}."


def _personal_table(sets: Sequence[SetRuns], summaries: dict[str, Summary]) -> str:
    lines = [
        f"| set | users | personal | shared | shuffled | personal {MINUS} shared | personal {MINUS} shuffled | answers "
        "that own heads change from the shared head's | better | worse |",
        "|---|---:|---|---|---|---|---|---:|---:|---:|",
    ]
    for each, shared, shuffled in zip(sets, summaries[SHARED].gains, summaries[SHUFFLED].gains, strict=True):
        changed = next(row for row in each.default["changed_answers"] if row["second"] == SHARED)
        lines.append(
            f"| {each.name} | {len(shared.pair.first_U)} | {shared.first:.3f} | {shared.second:.3f} | "
            f"{shuffled.second:.3f} | {_signed(shared.difference)} | "
            f"{_signed(shuffled.difference)} | {share(changed['changed'] / changed['num_queries'])} | "
            f"{changed['better']} | {changed['worse']} |"
        )
    averages = " | ".join(percentage(summaries[rival].average) for rival in (SHARED, SHUFFLED))
    return "\n".join([*lines, f"| average, relative | | | | | {averages} | | | |"])


def _behind(summary: Summary) -> list[Gain]:
    """Return the gains whose first system is worse than the second, by however little."""
    return [gain for gain in summary.gains if gain.difference.value < -_SAME]


def _signed(figure: Interval) -> str:
    return signed_with_bounds(asdict(figure))


def _listed(gains: Sequence[Gain]) -> str:
    return ", ".join(f"{gain.pair.task} ({percentage(gain.relative)})" for gain in gains) or "no set"


def _is_above_zero(figure: Interval) -> bool:
    return figure.low is not None and figure.low > 0


def _is_below_zero(figure: Interval) -> bool:
    return figure.high is not None and figure.high < 0


def _is_open(figure: Interval) -> bool:
    return not _is_above_zero(figure) and not _is_below_zero(figure)
