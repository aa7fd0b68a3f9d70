"""Progress lines of parts that take long: how many of their requests are answered, between one commit and the next."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass

from hydra_ray.findings import counted
from hydra_ray.runs.logs import PROGRESS, at_work, is_live

_SECONDS, _SECONDS_ON_A_TERMINAL = 15.0, 2.0
"""Time between two looks, and the least time for which a part is under way before it is spoken of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Progress of one part that a copy of the generator is answering. Key: (stage, bucket)."""

    stage: str
    bucket: int
    num_answered: int
    num_requests: int


class UnderWay:
    """Compares what is under way with what was at the last look."""

    def __init__(self) -> None:
        self._last: Mapping[tuple[str, int], Answered] = {}
        self._seconds = 0.0

    def lines(self, found: list[Answered], seconds: float) -> Iterator[tuple[str, str]]:
        """Yield a stage and a line for each stage with parts that were under way at the last look too.

        Args:
            seconds: moment of the look.
        """
        passed, last = seconds - self._seconds, self._last
        self._last, self._seconds = {(each.stage, each.bucket): each for each in found}, seconds
        for stage in dict.fromkeys(each.stage for each in found):
            parts = [each for each in found if each.stage == stage and (stage, each.bucket) in last]
            if not parts:
                continue
            num_answered = sum(each.num_answered for each in parts)
            num_requests = sum(each.num_requests for each in parts)
            num_new = num_answered - sum(last[stage, each.bucket].num_answered for each in parts)
            under_way = f"{counted(len(parts), 'part')} under way"
            pieces = [f"{stage}: {num_answered:,} of {num_requests:,} requests answered in {under_way}"]
            if num_new > 0:
                left = round((num_requests - num_answered) * passed / num_new)
                pieces += [f"{num_new / passed:.1f}/s", f"{left // 60}:{left % 60:02} left of these"]
            yield stage, "; ".join(pieces)


@contextmanager
def telling_of(ask: Callable[[], list[Answered]], seconds: float | None = None) -> Iterator[None]:
    """Log during the block, every few seconds, how far the parts under way are.

    Args:
        ask: returns what is under way; none where that cannot be told.
        seconds: time between two looks; None for less on a terminal than in a log file.
    """
    pause = seconds or (_SECONDS_ON_A_TERMINAL if is_live() else _SECONDS)
    is_over, under_way, logger = threading.Event(), UnderWay(), logging.getLogger(PROGRESS)

    def go_on() -> None:
        while not is_over.wait(pause):
            for stage, line in under_way.lines(ask(), time.monotonic()):
                with at_work(stage=stage):
                    logger.info("%s", line)

    thread = threading.Thread(target=copy_context().run, args=(go_on,), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
