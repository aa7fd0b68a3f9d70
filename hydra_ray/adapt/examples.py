"""What makes the adapter a scorer: its groups are the possible answers to a query.

Closed tasks: all labels compete, and the samples are features of each. Text: the distinct drafts compete, the greedy
answer to the retriever's prompt always among them. A candidate's id is the answer itself.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra_ray.config import Task
from hydra_ray.lamp.quality import quality
from hydra_ray.lamp.words import mentions, overlap, words
from hydra_ray.records import (
    VARIANTS,
    Candidate,
    DraftedQuery,
    DraftedUser,
    Group,
    ProbedUser,
    Record,
    User,
    UserExamples,
)
from hydra_ray.retrieve.ranking import RankedQuery, restore_queries

_CLOSED_NAMES = (
    "vote_share",  # among the samples of the prompt that the head chose
    "is_rag_answer",  # the greedy answer to the retriever's prompt
    "is_mentioned",  # the query contains the label's words
    "history_share",  # how often the user gave this output
    "retrieved_share",  # the same among the retrieved records, weighted by the retriever's score
    "is_nearest_output",  # the output of the best retrieved record
)
_RATING_NAMES = ("history_distance", "retrieved_distance", "vote_distance")  # from the mean rating, in label ranges
_TEXT_NAMES = (
    "vote_share",
    "is_rag_answer",
    "is_nearest_answer",  # the greedy answer to the prompt with the best retrieved record
    "consensus",  # mean overlap with the other drafts
    "query_overlap",
    "retrieved_overlap",  # mean overlap with the outputs of the retrieved records
    "log_length",
    "length_deviation",  # from the user's mean output length, in log words
)


def plain_names(task: Task) -> tuple[str, ...]:
    """Names of the plain features of a candidate of this task, in order."""
    if not task.is_closed:
        return _TEXT_NAMES
    biases = tuple(f"label={label}" for label in task.labels)
    return _CLOSED_NAMES + (_RATING_NAMES if task.kind == "rating" else ()) + biases


def adapter_examples(user: User, probed: ProbedUser, drafted: DraftedUser, task: Task) -> UserExamples:
    """The user's groups: one for each drafted query and each head whose choice of records was drafted from."""
    ranked_queries = {ranked.query.query_id: ranked for ranked in restore_queries(user, probed)}
    groups: list[Group] = []
    for each in drafted.queries:
        ranked = ranked_queries[each.query_id]
        for variant in VARIANTS:
            if any(prompt.prompt == variant for prompt in each.prompts):
                group = _group(user, ranked, each, variant, task)
                if group.candidates:
                    groups.append(group)
    return UserExamples(user_id=user.user_id, is_new=user.is_new, groups=tuple(groups))


def sampled_answers(drafted: DraftedQuery, prompt: str) -> list[str]:
    """The understood samples of one prompt, in the order they were drawn."""
    return [
        draft.answer.value
        for draft in drafted.drafts
        if draft.prompt == prompt and not draft.is_greedy and draft.answer.value is not None
    ]


def greedy_answer(drafted: DraftedQuery, prompt: str) -> str | None:
    """The greedy answer to one prompt; None where it was not asked for or not understood."""
    return next((d.answer.value for d in drafted.drafts if d.prompt == prompt and d.is_greedy), None)


def _group(user: User, ranked: RankedQuery, drafted: DraftedQuery, variant: str, task: Task) -> Group:
    context = _context(ranked, drafted, variant)
    candidates = _closed_candidates(context, task) if task.is_closed else _text_candidates(context)
    target = ranked.query.target if ranked.may_learn_from(user) else None
    return Group(
        group_id=f"{ranked.query.query_id}/{variant}",
        query_id=ranked.query.query_id,
        variant=variant,
        is_pseudo=ranked.is_pseudo,
        query=ranked.query.input,
        candidates=tuple(
            Candidate(
                candidate_id=text,
                text=text,
                plain=plain,
                quality=None if target is None else quality(task, text, target),
            )
            for text, plain in candidates
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What a query's candidates are compared with."""

    query: str
    history: tuple[Record, ...]
    retrieved: Sequence[Record]
    weights: Sequence[float]
    """Of the retrieved records; they sum to 1."""
    votes: Counter[str]
    rag: str | None
    nearest: str | None


def _context(ranked: RankedQuery, drafted: DraftedQuery, variant: str) -> _Context:
    scores = [max(each.score, 0.0) + 1e-6 for each in ranked.retrieved]
    return _Context(
        query=ranked.query.input,
        history=ranked.eligible,
        retrieved=ranked.records(each.record_id for each in ranked.retrieved),
        weights=[score / sum(scores) for score in scores],
        votes=Counter(sampled_answers(drafted, variant)),
        rag=greedy_answer(drafted, "rag_k"),
        nearest=greedy_answer(drafted, "rag_1"),
    )


def _closed_candidates(context: _Context, task: Task) -> Iterator[tuple[str, tuple[float, ...]]]:
    outputs = Counter(record.output for record in context.history)
    near: Counter[str] = Counter()
    for record, weight in zip(context.retrieved, context.weights, strict=True):
        near[record.output] += weight  # pyright: ignore[reportArgumentType]
    for position, label in enumerate(task.labels):
        plain = (
            context.votes[label] / max(context.votes.total(), 1),
            float(label == context.rag),
            float(mentions(context.query, label)),
            outputs[label] / max(outputs.total(), 1),
            near[label],
            float(bool(context.retrieved) and context.retrieved[0].output == label),
        )
        if task.kind == "rating":
            span = max(map(float, task.labels)) - min(map(float, task.labels))
            plain += tuple(_distance(label, counts, span) for counts in (outputs, near, context.votes))
        yield label, plain + tuple(float(position == other) for other in range(len(task.labels)))


def _distance(label: str, counts: Counter[str], span: float) -> float:
    """Distance of a rating from the mean of `counts`; 0 where there is nothing to compare with."""
    total = sum(counts.values())
    if not total:
        return 0.0
    mean = sum(float(value) * count for value, count in counts.items()) / total
    return abs(float(label) - mean) / span


def _text_candidates(context: _Context) -> Iterator[tuple[str, tuple[float, ...]]]:
    drafts = Counter(context.votes)
    for greedy in (context.rag, context.nearest):
        if greedy is not None:
            drafts.setdefault(greedy, 0)
    lengths = [math.log1p(len(words(record.output))) for record in context.history]
    usual_length = sum(lengths) / len(lengths) if lengths else None
    for text in drafts:
        length = math.log1p(len(words(text)))
        others = [overlap(text, other) for other in drafts if other != text]
        near = [overlap(text, record.output) for record in context.retrieved]
        yield (
            text,
            (
                drafts[text] / max(context.votes.total(), 1),
                float(text == context.rag),
                float(text == context.nearest),
                sum(others) / max(len(others), 1),
                overlap(text, context.query),
                sum(near) / max(len(near), 1),
                length,
                0.0 if usual_length is None else abs(length - usual_length),
            ),
        )
