"""The pool of a text task: the distinct drafts, each once, and each draft that runs on also cut short.

With rag_k among the prompts, the greedy answer to the retriever's prompt is in it, so that choosing can only lose by
choosing badly. A weak generator writes on up to its length limit; its first clause, or as many words as the user's own
outputs have, is often the better answer, and every word of it is the generator's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from hydra_ray.adapt.context import Context
from hydra_ray.config import DraftsConfig
from hydra_ray.rows import Record

MIN_WORDS = 3
"""Of a cut draft."""
_CLAUSE_END = re.compile(r"(?<=\w)[:;.!?,\u2013\u2014-]+\s")

Pool = Mapping[str, tuple[str, ...]]
"""Each candidate with the drafts that it is, or is the beginning of."""


def pool_of(context: Context, config: DraftsConfig, has_cuts: bool) -> Pool:
    """The candidates of a query, in a fixed order: greedy answers, answers of probes, samples, then what is cut.

    Args:
        has_cuts: whether drafts are also cut short.
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
    """The understood greedy answers that are drafts, repetitions included."""
    answers = (context.greedy[name].value for name in config.prompts if name in context.greedy)
    return [value for value in answers if value is not None]


def probe_drafts(context: Context, config: DraftsConfig) -> list[str]:
    """The understood answers to the best records' one-record prompts, repetitions included."""
    return [answer.value for answer in context.probes[: config.num_probes] if answer.value is not None]


def cuts(draft: str, usual_words: int | None) -> Iterator[str]:
    """The draft's first clause, and as many of its words as usual, where that is less than the draft."""
    end = _CLAUSE_END.search(draft)
    shorter = [draft[: end.start()]] if end else []
    if usual_words is not None:
        shorter.append(" ".join(draft.split()[:usual_words]))
    for text in shorter:
        if MIN_WORDS <= len(text.split()) < len(draft.split()):
            yield text


def usual_words(history: Sequence[Record]) -> int | None:
    """How many words the user's outputs have; None without any."""
    lengths = [len(record.output.split()) for record in history]
    return round(median(lengths)) if lengths else None
