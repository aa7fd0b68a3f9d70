"""Prometheus metrics of a run, at the endpoint of every Ray node: counts by run and stage, never any text.

Ray prefixes the names with `ray_`. Parts that existed before are not counted, so the rate of a counter is the current
speed.
"""

import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hydra_ray.runs.logs import work_names

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

logger = logging.getLogger(__name__)
COUNTED = {
    "rows": "Rows committed",
    "requests": "Requests of committed parts, known answers included",
    "asked_now": "Requests sent to the generator",
    "prompt_tokens": "Tokens of all prompts",
    "generated_tokens": "Generated tokens",
    "thoughts": "Answers with a thought before them",
    "thought_tokens": "Generated tokens of thoughts",
    "answers": "Answers that were parsed",
    "failed": "Answers that failed or could not be parsed",
}
"""Counters of parts that are exported, with their descriptions."""
_TAGS = ("run", "stage")
_PART_SECONDS = [0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600]


class Telemetry:
    """Exports the committed parts of one stage as metrics, and logs them at debug level. Ray must be running."""

    def __init__(self, stage_name: str, num_parts: int):
        self._tags = {"run": work_names().get("run", ""), "stage": stage_name}
        self._last = time.monotonic()
        _gauge("hydra_parts_to_do", "Parts of the stage that were missing when it started").set(num_parts, self._tags)

    def advance(self, bucket: int, counters: Mapping[str, float]) -> None:
        """Count one more committed part."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        _counter("hydra_parts", "Parts committed").inc(1, self._tags)
        _histogram("hydra_part_seconds", "Seconds from one committed part to the next").observe(seconds, self._tags)
        for name, description in COUNTED.items():
            if amount := counters.get(name):
                _counter(f"hydra_{name}", description).inc(amount, self._tags)
        logger.debug("part %d committed", bucket, extra={"part": bucket, "seconds": round(seconds, 3), **counters})


def stage_ended(stage_name: str, seconds: float) -> None:
    """Export how long a stage took, if Ray is running: some stages do without."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        tags = {"run": work_names().get("run", ""), "stage": stage_name}
        _gauge("hydra_stage_seconds", "Seconds that the stage took when it was completed").set(seconds, tags)


def batches_polled(stage_name: str) -> Callable[[int, int], None]:
    """Return a function that exports how many requests of a stage's batches are done, of all that are under way."""

    def export(num_done: int, num_requests: int) -> None:
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            tags = {"run": work_names().get("run", ""), "stage": stage_name}
            _gauge("hydra_batch_requests_done", "Requests of batches under way that are done").set(num_done, tags)
            _gauge("hydra_batch_requests", "Requests of batches under way").set(num_requests, tags)

    return export


@functools.cache
def _counter(name: str, description: str) -> "Counter":
    from ray.util.metrics import Counter

    return Counter(name, description, tag_keys=_TAGS)


@functools.cache
def _gauge(name: str, description: str) -> "Gauge":
    from ray.util.metrics import Gauge

    return Gauge(name, description, tag_keys=_TAGS)


@functools.cache
def _histogram(name: str, description: str) -> "Histogram":
    from ray.util.metrics import Histogram

    return Histogram(name, description, boundaries=_PART_SECONDS, tag_keys=_TAGS)
