"""Answers of a part are kept while they arrive, so that an engine that dies loses seconds of work."""

import asyncio
from types import TracebackType
from typing import Self

from hydra_ray.generate.engine import Keep
from hydra_ray.rows import Completion

KEEP_SECONDS = 2.0
"""Longest time that an answer waits until it is kept, besides the time of keeping."""
MAX_WAITING = 256
"""Number of answers that are kept at once, however soon they came."""


class Keeper:
    """Calls `keep` with the completions that are added within an `async with` block: in another thread, in batches, and
    with the last ones before the block ends, whatever ends it."""

    def __init__(self, keep: Keep, seconds: float = KEEP_SECONDS, max_waiting: int = MAX_WAITING):
        self.completions: list[Completion] = []
        """All that were added."""
        self._keep, self._seconds, self._max_waiting = keep, seconds, max_waiting
        self._num_kept = 0
        self._is_full, self._is_over = asyncio.Event(), False
        self._task: asyncio.Task[None] | None = None

    def add(self, completion: Completion) -> None:
        """Add a completion, which is kept soon.

        Raises:
            Exception: what was added before could not be kept.
        """
        if self._task is not None and self._task.done():
            self._task.result()
        self.completions.append(completion)
        if len(self.completions) - self._num_kept >= self._max_waiting:
            self._is_full.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_going())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._is_over = True
        self._is_full.set()
        # Also where this is cancelled: what was answered is paid for.
        await asyncio.shield(self._task)

    async def _keep_going(self) -> None:
        """Keep what has been added, every few seconds, when there is much, and when all is over."""
        while not self._is_over or self._num_kept < len(self.completions):
            try:
                async with asyncio.timeout(None if self._is_over else self._seconds):
                    await self._is_full.wait()
            except TimeoutError:
                pass
            if not self._is_over:
                self._is_full.clear()
            if batch := self.completions[self._num_kept :]:
                await asyncio.to_thread(self._keep, batch)
                self._num_kept += len(batch)
