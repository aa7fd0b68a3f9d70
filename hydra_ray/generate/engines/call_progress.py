"""Progress of the calls of one part: the attempts of each request, and the answers so far with what is stored of
them."""

import asyncio
import time
from dataclasses import replace

from hydra_ray.generate.engine import Keep
from hydra_ray.generate.failures import FailureKind
from hydra_ray.rows import Completion


class Attempts:
    """Number of calls of one request, and the time since the first one."""

    def __init__(self) -> None:
        self.number = 0
        self.lost_tokens = 0
        """Prompt tokens of replies that could not be used, approximately."""
        self._start: float | None = None

    def begin(self, deadline_seconds: float) -> float:
        """Count a call that begins; return the seconds left for it, at least a millisecond."""
        self.number += 1
        self._start = time.monotonic() if self._start is None else self._start
        return max(self.left(deadline_seconds), 0.001)

    def excuse(self, seconds: float) -> None:
        """Leave out seconds of waiting from the time since the first call."""
        self._start = None if self._start is None else self._start + seconds

    def began_before(self, moment: float) -> bool:
        """Return whether the first call began before a moment of the monotonic clock."""
        return self._start is not None and self._start < moment

    def left(self, deadline_seconds: float) -> float:
        """Return the seconds left until the deadline."""
        return deadline_seconds - (time.monotonic() - (self._start or time.monotonic()))


class Answers:
    """Completions so far, and the number of them that are stored."""

    def __init__(self, keep: Keep):
        self.all: list[Completion] = []
        self._held: list[Completion] = []
        """Refusals that the key, the address or the network may be the cause of."""
        self._keep, self._num_kept = keep, 0
        self._keeping = asyncio.Lock()

    @property
    def num_waiting(self) -> int:
        """Number of completions that are not stored yet."""
        return len(self.all) - self._num_kept

    def add(self, completion: Completion) -> None:
        """Add a completion."""
        self.all.append(completion)

    def hold(self, completion: Completion) -> None:
        """Add a doubtful refusal, which is stored only if another request is answered after it."""
        self._held.append(completion)

    def release(self) -> None:
        """Add the refusals that are held: another request was answered, so that they are those of their requests."""
        self.all += self._held
        self._held.clear()

    def end_doubt(self) -> None:
        """Add the refusals that are still held, as failures that a retry may repair, which are never stored."""
        self.all += [replace(each, failure=FailureKind.UNAVAILABLE) for each in self._held]
        self._held.clear()

    async def flush(self, *, has_refusals: bool = True) -> None:
        """Store the waiting completions, while other requests continue.

        Args:
            has_refusals: whether refused requests are stored too.
        """
        async with self._keeping:
            batch = self.all[self._num_kept :]
            stored = [each for each in batch if has_refusals or each.failure != FailureKind.REFUSED]
            if stored:
                await asyncio.to_thread(self._keep, stored)
            # Only now: a thread that had not started when everything was cancelled stores nothing.
            self._num_kept += len(batch)
