"""Progress lines: at most one every few seconds in log files, and one a second on a terminal."""

import logging
import time
from collections.abc import Mapping

from hydra_ray.runs.logs import PROGRESS, is_live
from hydra_ray.storage import add_counters

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES, _SECONDS_ON_A_TERMINAL = 5.0, 1.0


class Progress:
    """Counts the parts of one stage and logs parts done, rates and time left."""

    def __init__(self, name: str, num_parts: int):
        self._name = name
        self._num_parts = num_parts
        self._num_done = 0
        self._counters: dict[str, float] = {}
        self._start = time.monotonic()
        self._first_part_seconds = 0.0
        self._last_line = 0.0

    def advance(self, counters: Mapping[str, float]) -> None:
        """Count one more committed part."""
        self._num_done += 1
        self._counters = add_counters([self._counters, counters])
        now = time.monotonic()
        self._first_part_seconds = self._first_part_seconds or now - self._start
        if self._num_done == self._num_parts:
            logger.info("%s", self.line(now - self._start))
        elif now - self._last_line >= (_SECONDS_ON_A_TERMINAL if is_live() else _SECONDS_BETWEEN_LINES):
            self._last_line = now
            logging.getLogger(PROGRESS).info("%s", self.line(now - self._start))

    def line(self, seconds: float) -> str:
        """Return the progress line after `seconds` of work."""
        pieces = [f"{self._name}: {self._num_done}/{self._num_parts} parts"]
        if rows := self._counters.get("rows"):
            pieces.append(f"{rows:.0f} rows, {rows / seconds:.1f}/s")
        if requests := self._counters.get("requests"):
            pieces.append(f"{requests:.0f} requests, {requests / seconds:.1f}/s")
        if tokens := self._counters.get("generated_tokens"):
            pieces.append(f"{tokens / seconds:.0f} tokens/s")
        if cost := self._counters.get("cost"):
            pieces.append(f"cost {cost:.2f}")
        num_left = self._num_parts - self._num_done
        if not num_left:
            pieces.append(f"done in {seconds:.1f} s")
        elif self._num_done > 1:  # the first part's time is mostly start-up and does not predict the others
            left = round((seconds - self._first_part_seconds) / (self._num_done - 1) * num_left)
            pieces.append(f"{left // 60}:{left % 60:02} left")
        return "; ".join(pieces)
