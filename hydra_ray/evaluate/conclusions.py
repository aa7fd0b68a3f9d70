"""Conclusions about pairs of systems, one sentence for each verdict of interval and test."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra_ray.evaluate.phrases import Report, compared, pair_verdict, percent, signed_with_bounds
from hydra_ray.evaluate.systems import HYDRA, RAG


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """Sentences about a pair of systems, by verdict; {first} and {second} stand for their titles."""

    first: str
    second: str
    """Name of a system, or of the report's key that names it."""
    better: str
    worse: str
    open: str


_GATE_PAIR = (HYDRA, "hydra_personal")
_BEST_PROMPT = "best_prompt_baseline"
_BEST_SIMPLE = "best_simple_baseline"
CONCLUSIONS = (
    Conclusion(
        first=HYDRA,
        second=_BEST_PROMPT,
        better="{first} beats the best system that only prompts, {second}",
        worse="{first} is worse than the best system that only prompts, {second}",
        open="No difference to the best system that only prompts, {second}, can be shown",
    ),
    Conclusion(
        first=HYDRA,
        second=_BEST_SIMPLE,
        better="{first} beats the best system that only counts, {second}",
        worse="{first} is worse than the best system that only counts, {second}",
        open="No difference to the best system that only counts, {second}, can be shown",
    ),
    Conclusion(
        first=HYDRA,
        second="hydra_routed",
        better="{first} beats shared heads that are routed by the history, with nothing fitted to a user",
        worse="{first} is worse than shared heads that are routed by the history, with nothing fitted to a user",
        open="No difference to shared heads that are routed by the history can be shown",
    ),
    Conclusion(
        first=HYDRA,
        second="hydra_personal",
        better="The gate gains: {first} beats {second} for everybody",
        worse="The gate loses: {first} is worse than {second} for everybody",
        open="That the gate differs from {second} for everybody cannot be shown",
    ),
    Conclusion(
        first="hydra_routed",
        second="hydra_shared",
        better="Several shared heads, routed by the history, beat one",
        worse="Several shared heads, routed by the history, are worse than one",
        open="That several shared heads, routed by the history, differ from one cannot be shown",
    ),
    Conclusion(
        first="adapter_only",
        second=RAG,
        better="The adapter alone gains over {second}: choosing among drafts pays",
        worse="The adapter alone loses to {second}: it chooses badly among drafts",
        open="That the adapter alone differs from {second} cannot be shown",
    ),
    Conclusion(
        first="reranker_only",
        second=RAG,
        better="The reranker alone gains over {second}: its choice of records pays",
        worse="The reranker alone loses to {second}: it chooses worse records than the retriever",
        open="That the reranker alone differs from {second} cannot be shown",
    ),
    Conclusion(
        first="hydra_personal",
        second="adapter_only",
        better="The reranker adds to the adapter",
        worse="The reranker takes from the adapter",
        open="That the reranker adds to the adapter cannot be shown",
    ),
    Conclusion(
        first=RAG,
        second="zero_shot",
        better="Records in the prompt help the generator",
        worse="Records in the prompt hurt the generator",
        open="That records in the prompt help the generator cannot be shown",
    ),
    Conclusion(
        first=RAG,
        second="random_k",
        better="Retrieved records help more than random ones",
        worse="Retrieved records help less than random ones",
        open="That retrieved records differ from random ones cannot be shown",
    ),
    Conclusion(
        first="pag_k",
        second=RAG,
        better="A written profile of the user adds to the records",
        worse="A written profile of the user takes from the records",
        open="That a written profile of the user adds to the records cannot be shown",
    ),
)
CONTROL_CONCLUSIONS = (
    Conclusion(
        first="hydra_personal",
        second="hydra_shared",
        better="The users' own heads beat one head shared by all",
        worse="The users' own heads are worse than one head shared by all",
        open="That the users' own heads differ from one head shared by all cannot be shown",
    ),
    Conclusion(
        first="hydra_personal",
        second="hydra_shuffled",
        better="With another user's heads the gain is lost, so the heads are personal",
        worse="Another user's heads do better than the own ones, so the heads mislead",
        open="No loss with another user's heads can be shown, so it is not shown that the heads are personal",
    ),
    Conclusion(
        first="hydra_personal",
        second="hydra_routed",
        better="What is fitted to each user adds to what the history tells without a fit",
        worse="What is fitted to each user takes from what the history tells without a fit",
        open="That what is fitted to each user adds to what the history tells without a fit cannot be shown",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concluded:
    """Conclusion about a pair of systems of one report."""

    verdict: str
    """"better", "worse" or "open"."""
    sentence: str
    pair: str
    """Titles of both systems with their difference, as part of a sentence."""
    is_alike: bool
    """Whether they do not differ in any resample."""
    is_about_others: bool
    """Whether the second system has other users' heads."""


def conclusion_of(report: Report, conclusion: Conclusion) -> Concluded | None:
    """Return the verdict on the pair of systems and the sentence that states it.

    Returns:
        None where the pair was not compared, or where it is about the gate and the run has none.
    """
    first, second = conclusion.first, conclusion.second
    if second in (_BEST_PROMPT, _BEST_SIMPLE):
        second = report[second]
    is_without_gate = not report["config"]["answers"]["is_gated"]
    if second not in report["differences"].get(first, {}) or (is_without_gate and (first, second) == _GATE_PAIR):
        return None
    found = pair_verdict(report, first, second)
    sentence = {"better": conclusion.better, "worse": conclusion.worse, "open": conclusion.open}[found]
    titles = {"first": report["systems"][first]["title"], "second": report["systems"][second]["title"]}
    difference = report["differences"][first][second][report["metrics"][0]["name"]]
    is_alike = difference["value"] == difference["low"] == difference["high"] == 0
    return Concluded(
        verdict=found,
        sentence=f"{sentence.format(**titles)}: {compared(report, first, second)}",
        pair=f"{titles['first']} and {titles['second']}" + ("" if is_alike else f" ({signed_with_bounds(difference)})"),
        is_alike=is_alike,
        is_about_others=second == "hydra_shuffled",
    )


def open_sentences(report: Report, concluded: Sequence[Concluded]) -> Iterator[str]:
    """Yield at most two sentences on all pairs of which it cannot be shown that they differ."""
    left = [each for each in concluded if each.verdict == "open"]
    alike = dict.fromkeys(each.pair for each in left if each.is_alike)
    unsure = dict.fromkeys(each.pair for each in left if not each.is_alike)
    if unsure:
        yield (
            f"No difference can be shown between {'; '.join(unsure)}: of these differences in "
            f"{report['metrics'][0]['title']} the {percent(report)} intervals include 0, or the tests are not "
            "significant once corrected for the number of comparisons."
        )
    if alike:
        yield f"Equally good on every user: {'; '.join(alike)}."
