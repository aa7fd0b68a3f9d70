"""Interface of generators: requests in, completions out."""

from collections.abc import Callable, Sequence
from typing import Protocol

from hydra_ray.rows import Completion, Request

Keep = Callable[[Sequence[Completion]], None]
"""Function that stores completions so that they outlast the engine."""


def keep_nowhere(_: Sequence[Completion]) -> None:
    """Store nothing, for callers that need the completions only once all have arrived."""


class Engine(Protocol):
    """A loaded or connected generator."""

    def generate(self, requests: Sequence[Request], keep: Keep = keep_nowhere) -> list[Completion]:
        """Return one completion per request, joined by request_id; the order is undefined.

        The result depends only on the requests, neither on earlier calls nor on the process. A request that cannot be
        completed yields a completion with an error.

        Args:
            keep: called with batches of completions that may be stored, each completion once, as they arrive.

        Raises:
            EndpointError: the generator answers no request, from any client.
            GenerationError: this engine failed and cannot be used any more.
        """
        ...

    def close(self) -> None:
        """Release the generator's memory."""
        ...
