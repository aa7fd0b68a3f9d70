"""Interface of generators: prompts in, completions out."""

from collections.abc import Callable, Sequence
from typing import Protocol

from hydra_ray.rows import Completion, Prompt

ENGINE = "generator.engine"
"""Name of the setting."""
Keep = Callable[[Sequence[Completion]], None]
"""Function that stores completions so that they outlast the engine."""


def keep_nowhere(_: Sequence[Completion]) -> None:
    """Store nothing, for callers that need the completions only once all have arrived."""


class Engine(Protocol):
    """A loaded or connected generator. All coroutines of one engine run in the same event loop."""

    max_parts: int
    """Number of parts that are worth answering at the same time: with more, none is answered sooner."""

    async def answer(self, prompts: Sequence[Prompt], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per prompt of a part, joined by request_id; the order is undefined.

        Several parts may be awaited at the same time. What a completion depends on, besides its request, is said by
        each engine. A request that cannot be completed yields a completion with an error.

        Args:
            prompts: what `prepare_prompts` made of the requests.
            keep: called with batches of completions that may be stored, each completion once, as they arrive; it may be
                called in another thread, but never twice at the same time for one part.

        Raises:
            EndpointError: the generator answers no request, from any client.
            GenerationError: this engine failed and cannot be used any more.
        """
        ...

    def close(self) -> None:
        """Release the generator's memory."""
        ...
