"""Execution of a stage: skipped where it is complete, claimed by one process, its manifest written last."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hydra_ray.engine.parts import Counters
from hydra_ray.engine.telemetry import stage_ended
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.runs.lease import claim
from hydra_ray.runs.logs import at_work
from hydra_ray.runs.signals import require_not_stopped
from hydra_ray.runs.stage import Stage

logger = logging.getLogger(__name__)

OnComputed = Callable[[Stage], None]
"""Callback for each stage that this process, and no other, has computed."""


def tell_nobody(_: Stage) -> None:
    """Ignore the stage."""


_on_computed: ContextVar[OnComputed] = ContextVar("on_computed", default=tell_nobody)


@contextmanager
def telling(on_computed: OnComputed) -> Iterator[None]:
    """Call `on_computed` for every stage that is computed within the block."""
    token = _on_computed.set(on_computed)
    try:
        yield
    finally:
        _on_computed.reset(token)


def complete(stage: Stage, work: Callable[[], Counters]) -> None:
    """Compute the stage and write its manifest, unless it is complete already."""
    require_not_stopped()
    if stage.is_complete():
        stage.manifest()  # fails early on a manifest of another version
        logger.info("%s: complete, kept (%s)", stage.name, stage.fingerprint)
        return
    with claim(stage), at_work(stage=stage.name):
        if stage.is_complete():
            logger.info("%s: computed by another run meanwhile, kept (%s)", stage.name, stage.fingerprint)
            return
        for location in stage.set_aside_damaged():
            logger.warning("%s: %s is damaged; it was set aside and is computed again", stage.name, location)
        logger.info("%s: starts", stage.name)
        start = time.monotonic()
        with tells_reason():
            counters = work()
        seconds = time.monotonic() - start
        stage.complete(seconds, counters)
        _on_computed.get()(stage)
        stage_ended(stage.name, seconds)
        logger.info("%s: complete in %.1f s", stage.name, seconds)
