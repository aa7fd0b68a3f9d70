"""Kinds of failed answers, and the `errors` table that records them.

A failed answer is a row here in addition to its place in the stage's own table. Transient failures, which a retry may
repair, are distinguished from permanent ones; only the former are retried by default.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum

from hydra_ray.errors import GenerationError
from hydra_ray.generate.parsing import EMPTY, UNFINISHED_THOUGHT
from hydra_ray.rows import Completion, Failure, Generation


class FailureKind(StrEnum):
    """Reason why there is no usable answer."""

    CUT = "cut"
    """The answer reached its length limit before it could be parsed."""
    CONTENT_FILTER = "content_filter"
    """The generator's content filter stopped the answer."""
    EMPTY = "empty"
    """The answer is empty."""
    UNFINISHED_THOUGHT = "unfinished_thought"
    """The generator's thought left no room for an answer."""
    UNPARSABLE = "unparsable"
    """The answer is not one to the task."""
    TOO_LONG = "too_long"
    """The prompt does not fit the generator's context."""
    REFUSED = "refused"
    """The generator rejects this request."""
    TIMEOUT = "timeout"
    """No answer arrived before the request's deadline."""
    UNAVAILABLE = "unavailable"
    """The generator was overloaded or unreachable at every attempt."""
    ENGINE = "engine"
    """The generator failed at this request."""


TRANSIENT = frozenset({FailureKind.TIMEOUT, FailureKind.UNAVAILABLE, FailureKind.ENGINE})
"""Kinds of failures that a retry may repair; they are never stored as answers."""
ERRORS = "errors"
"""Name of the errors table."""
COUNTER = "failed."
"""Prefix of the counters of failures by kind."""
_HINTS: Mapping[str, str] = {
    FailureKind.UNFINISHED_THOUGHT: "Give thoughts more room by generator.thinking_tokens, or switch them off by "
    "generator.chat_template_kwargs. "
}
"""What to do about the most common kind of failure, where it is one thing."""
_MEANINGS: Mapping[str, str] = {
    FailureKind.CUT: "they reached their length limit (lamp.task.max_tokens)",
    FailureKind.CONTENT_FILTER: "the generator's content filter stopped them",
    FailureKind.EMPTY: "they were empty",
    FailureKind.UNFINISHED_THOUGHT: "a thought left no room for them (generator.thinking_tokens)",
    FailureKind.UNPARSABLE: "they were none to the task (docs/parsing.md)",
    FailureKind.TOO_LONG: "their prompt did not fit (generator.max_model_tokens)",
    FailureKind.REFUSED: "the generator refused the request",
    FailureKind.TIMEOUT: "none came in time (generator.api.request_deadline_seconds)",
    FailureKind.UNAVAILABLE: "the generator was overloaded or away at every attempt",
    FailureKind.ENGINE: "the generator failed at them",
}
"""Why an answer failed, in words."""
_ENOUGH_ANSWERS = 1000
"""Minimum number of answers before failures stop a running stage: the first ones may be worse than the rest."""


def failures_of(completions: Iterable[Completion], error_of: Callable[[Generation], str | None]) -> Iterator[Failure]:
    """Yield the rows of an errors table, each distinct request once.

    Args:
        error_of: returns why a generation cannot be used; None where it can.
    """
    for completion in {each.request_id: each for each in completions}.values():
        if completion.error is not None:
            yield _failure(completion, None, completion.failure or FailureKind.ENGINE, completion.error)
        for sample, generation in enumerate(completion.generations):
            if (error := error_of(generation)) is not None:
                yield _failure(completion, sample, _kind(generation, error), error)


def count_kinds(failures: Iterable[Failure]) -> dict[str, int]:
    """Return the number of failures by kind, as counters."""
    return dict(Counter(f"{COUNTER}{failure.kind}" for failure in failures))


def require_answers(
    stage: str, errors: str, counters: Mapping[str, float], max_failed_fraction: float, is_over: bool
) -> None:
    """Check that the share of failed answers of a stage does not exceed the limit.

    Args:
        stage: name of the stage.
        errors: folder of its errors table.
        counters: sums over the committed parts.
        is_over: whether all parts are committed.

    Raises:
        GenerationError: it does.
    """
    num_answers, num_failed = counters.get("answers", 0), counters.get("failed", 0)
    if num_failed <= max_failed_fraction * num_answers or (num_answers < _ENOUGH_ANSWERS and not is_over):
        return
    kinds = _kinds_in(counters)
    listed = ", ".join(f"{kind} {number:.0f}" for kind, number in kinds.most_common(3))
    hint = next((_HINTS.get(kind, "") for kind, _ in kinds.most_common(1)), "")
    raise GenerationError(
        f"stage {stage}: {num_failed:.0f} of {num_answers:.0f} answers failed ({num_failed / num_answers:.0%}), more "
        f"than generator.max_failed_fraction={max_failed_fraction:g} allows. Most common: {listed}. Each is a row of "
        f"{errors}. {hint}Committed parts are kept. Fix the cause and repeat the failed requests with `hydra-ray "
        "retry RUN`, or raise generator.max_failed_fraction to go on without them."
    )


def failures_text(counters: Mapping[str, float]) -> str:
    """Return how many answers failed and why most of them did, as a sentence without an end; empty where none failed.

    Args:
        counters: sums over the parts of a stage.
    """
    num_failed, kinds = counters.get("failed", 0), _kinds_in(counters)
    if not num_failed:
        return ""
    num_answers = counters.get("answers", counters.get("requests", 0))
    text = f"{num_failed:,.0f} of {num_answers:,.0f} answers failed"
    if not kinds:
        return text
    kind, number = kinds.most_common(1)[0]
    meaning = _MEANINGS.get(kind, kind)
    return f"{text}, {'all' if number == num_failed else f'{number:,.0f}'} of them because {meaning}"


def _kinds_in(counters: Mapping[str, float]) -> Counter[str]:
    return Counter({name.removeprefix(COUNTER): n for name, n in counters.items() if name.startswith(COUNTER) and n})


def _failure(completion: Completion, sample: int | None, kind: str, message: str) -> Failure:
    return Failure(
        user_id=completion.user_id,
        request_id=completion.request_id,
        sample=sample,
        kind=str(kind),
        message=message,
        attempts=completion.attempts,
    )


def _kind(generation: Generation, error: str) -> FailureKind:
    if generation.finish_reason == "content_filter":
        return FailureKind.CONTENT_FILTER
    if error == UNFINISHED_THOUGHT:
        return FailureKind.UNFINISHED_THOUGHT
    if error == EMPTY:
        return FailureKind.EMPTY
    return FailureKind.CUT if generation.finish_reason == "length" else FailureKind.UNPARSABLE
