"""Pool of candidates of a text task: the distinct drafts, and truncated versions of drafts that are too long.

If rag_k is among the prompts, the greedy answer to the retriever's prompt is in the pool, so that only a wrong choice
can lose against it. A weak generator writes up to its length limit; its first clause, or as many words as the user's
outputs usually have, is often the better answer, and contains only words of the generator.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from hydra_ray.adapt.context import Context
from hydra_ray.config import DraftsConfig
from hydra_ray.rows import Record

MIN_WORDS = 3
"""Smallest number of words of a truncated draft."""
_CLAUSE_END = re.compile(r"(?<=\w)[:;.!?,\u2013\u2014-]+\s")

Pool = Mapping[str, tuple[str, ...]]
"""Candidates, each with the drafts that it equals or is the beginning of."""


def pool_of(context: Context, config: DraftsConfig, has_cuts: bool) -> Pool:
    """Return the candidates of a query in a fixed order: greedy answers, answers of probes, samples, truncated drafts.

    Args:
        has_cuts: whether truncated drafts are included.
    """
    drafts = list(dict.fromkeys((*greedy_drafts(context, config), *probe_drafts(context, config), *context.samples)))
    pool: dict[str, tuple[str, ...]] = {draft: (draft,) for draft in drafts}
    usual = usual_words(context.history)
    for draft in drafts if has_cuts else ():
        for cut in cuts(draft, usual):
            if draft not in pool.get(cut, ()):
                pool[cut] = (*pool.get(cut, ()), draft)
    return pool


def greedy_drafts(context: Context, config: DraftsConfig) -> list[str]:
    """Return the parsed greedy answers that are drafts, repetitions included."""
    answers = (context.greedy[name].value for name in config.prompts if name in context.greedy)
    return [value for value in answers if value is not None]


def probe_drafts(context: Context, config: DraftsConfig) -> list[str]:
    """Return the parsed answers to the best records' one-record prompts, repetitions included."""
    return [answer.value for answer in context.probes[: config.num_probes] if answer.value is not None]


def cuts(draft: str, usual_words: int | None) -> Iterator[str]:
    """Yield the draft's first clause, and its first `usual_words` words, where these are shorter than the draft."""
    end = _CLAUSE_END.search(draft)
    shorter = [draft[: end.start()]] if end else []
    for text in (*shorter, first_words(draft, usual_words)):
        if MIN_WORDS <= len(text.split()) < len(draft.split()):
            yield text


def first_words(text: str, num_words: int | None) -> str:
    """Return the first `num_words` words of a text; the text itself where it has no more, or without a number."""
    words = text.split()
    return text if num_words is None or len(words) <= num_words else " ".join(words[:num_words])


def usual_words(history: Sequence[Record]) -> int | None:
    """Return the median number of words of the user's outputs; None without any."""
    lengths = [len(record.output.split()) for record in history]
    return round(median(lengths)) if lengths else None
