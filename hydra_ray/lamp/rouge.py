"""ROUGE F1 by the rouge_score package, as LaMP's evaluation has it: no stemming."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast


@cache
def rouge(names: tuple[str, ...]) -> Callable[[str, str], tuple[float, ...]]:
    """A function of (target, text) that yields the F1 of each of `names`, such as "rouge1" or "rougeL"."""
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingTypeStubs]

    scorer = cast(Any, RougeScorer(list(names), use_stemmer=False))

    def score(target: str, text: str) -> tuple[float, ...]:
        scores = scorer.score(target, text)
        return tuple(float(scores[name].fmeasure) for name in names)

    return score


def rouge_l(target: str, text: str) -> float:
    """ROUGE-L F1 of two texts; symmetric."""
    return rouge(("rougeL",))(target, text)[0]
