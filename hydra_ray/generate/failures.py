"""What can go wrong with an answer, and the `errors` table that tells it.

A failed answer is a row here besides its place in the stage's own table. What asking again may help is told apart from
what would end alike: only the former is asked again by itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum

from hydra_ray.errors import GenerationError
from hydra_ray.generate.parsing import EMPTY
from hydra_ray.rows import Completion, Failure, Generation


class FailureKind(StrEnum):
    """Why there is no usable answer."""

    CUT = "cut"
    """The answer reached the largest number of tokens before it could be understood."""
    CONTENT_FILTER = "content_filter"
    """The generator's own filter stopped the answer."""
    EMPTY = "empty"
    """Nothing was written."""
    UNPARSABLE = "unparsable"
    """What was written is no answer to the task."""
    TOO_LONG = "too_long"
    """The prompt does not fit the generator."""
    REFUSED = "refused"
    """The generator does not take this request."""
    TIMEOUT = "timeout"
    """No answer came within the request's deadline."""
    UNAVAILABLE = "unavailable"
    """The generator was overloaded or out of reach at every attempt."""
    ENGINE = "engine"
    """The generator failed at this request."""


TRANSIENT = frozenset({FailureKind.TIMEOUT, FailureKind.UNAVAILABLE, FailureKind.ENGINE})
"""Kinds of which asking again may make an answer; they are never kept as answered."""
ERRORS = "errors"
"""Name of the table."""
COUNTER = "failed."
"""How the counters begin that tell the failures of a kind."""
_ENOUGH_ANSWERS = 1000
"""Fewer do not stop a stage before its end: the first ones may be worse than the rest."""


def failures_of(completions: Iterable[Completion], error_of: Callable[[Generation], str | None]) -> Iterator[Failure]:
    """Yield the rows of an errors table, each distinct request once.

    Args:
        error_of: why a generation cannot be used; None where it can.
    """
    for completion in {each.request_id: each for each in completions}.values():
        if completion.error is not None:
            yield _failure(completion, None, completion.failure or FailureKind.ENGINE, completion.error)
        for sample, generation in enumerate(completion.generations):
            if (error := error_of(generation)) is not None:
                yield _failure(completion, sample, _kind(generation, error), error)


def count_kinds(failures: Iterable[Failure]) -> dict[str, int]:
    """Counters of the failures, by kind."""
    return dict(Counter(f"{COUNTER}{failure.kind}" for failure in failures))


def require_answers(
    stage: str, errors: str, counters: Mapping[str, float], max_failed_fraction: float, is_over: bool
) -> None:
    """Check that not too many of a stage's answers failed.

    Args:
        stage: its name.
        errors: where its errors table is.
        counters: sums over the parts that are committed.
        is_over: whether these are all parts.

    Raises:
        GenerationError: too many did.
    """
    num_answers, num_failed = counters.get("answers", 0), counters.get("failed", 0)
    if num_failed <= max_failed_fraction * num_answers or (num_answers < _ENOUGH_ANSWERS and not is_over):
        return
    kinds = Counter({name.removeprefix(COUNTER): n for name, n in counters.items() if name.startswith(COUNTER)})
    listed = ", ".join(f"{kind} {number:.0f}" for kind, number in kinds.most_common(3))
    raise GenerationError(
        f"stage {stage}: {num_failed:.0f} of {num_answers:.0f} answers failed ({num_failed / num_answers:.0%}), more "
        f"than generator.max_failed_fraction={max_failed_fraction:g} allows. Most common: {listed}. Each is a row of "
        f"{errors}. What was committed is kept. Put the cause right and ask the failed ones again with `hydra-ray "
        "retry RUN`, or raise generator.max_failed_fraction to go on without them."
    )


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
    if error == EMPTY:
        return FailureKind.EMPTY
    return FailureKind.CUT if generation.finish_reason == "length" else FailureKind.UNPARSABLE
