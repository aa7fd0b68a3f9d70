"""The generator as everything else sees it: requests in, completions out."""

from collections.abc import Callable, Sequence
from typing import Protocol

from hydra_ray.rows import Completion, Request

Keep = Callable[[Sequence[Completion]], None]
"""Puts completions where they outlast the engine."""


def keep_nowhere(_: Sequence[Completion]) -> None:
    """For callers who need completions only once all are there."""


class Engine(Protocol):
    """A generator that can be asked."""

    def generate(self, requests: Sequence[Request], keep: Keep = keep_nowhere) -> list[Completion]:
        """One completion a request, joined by request_id; the order is not defined.

        The result depends on nothing but the requests: neither on earlier calls nor on the process. A request that
        cannot be completed yields a completion with an error.

        Args:
            keep: called with every completion, several at a time, as soon as they are worth keeping.

        Raises:
            EndpointError: nothing can be asked of the generator, whoever asks it.
            GenerationError: the generator itself failed and cannot be used any more.
        """
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...
