"""ROUGE F1 by the rouge_score package, without stemming, as in LaMP's evaluation."""

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, cast


@cache
def rouge(names: tuple[str, ...]) -> Callable[[str, str], tuple[float, ...]]:
    """Return a function of (target, text) that returns the F1 of each of `names`, such as "rouge1" or "rougeL"."""
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingTypeStubs]

    scorer = cast(Any, RougeScorer(list(names), tokenizer=cast(Any, _Tokenizer())))

    def score(target: str, text: str) -> tuple[float, ...]:
        scores = scorer.score(target, text)
        return tuple(float(scores[name].fmeasure) for name in names)

    return score


def rouge_l(target: str, text: str) -> float:
    """Return the ROUGE-L F1 of two texts; symmetric."""
    return rouge(("rougeL",))(target, text)[0]


class _Tokenizer:
    """Cached tokenizer of rouge_score: the drafts of a query are compared with each other, so each is tokenized many
    times.
    """

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer  # pyright: ignore[reportMissingTypeStubs]

        self.tokenize = lru_cache(maxsize=1 << 16)(cast(Any, DefaultTokenizer(use_stemmer=False)).tokenize)
