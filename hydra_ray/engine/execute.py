"""Execution of a stage: skipped where it is complete, claimed by one process, its manifest written last."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

from hydra_ray.engine.parts import Counters
from hydra_ray.engine.telemetry import stage_ended
from hydra_ray.engine.worker_errors import tells_reason
from hydra_ray.runs.lease import claim
from hydra_ray.runs.logs import at_work
from hydra_ray.runs.signals import require_not_stopped
from hydra_ray.runs.stage import Stage
from hydra_ray.storage.recording import recording

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
    complete_together([stage], lambda _, finish: finish(stage, work()))


Finish = Callable[[Stage, Counters], None]
"""Writes the manifest of a stage that is computed, given its counters."""


def complete_together(stages: Sequence[Stage], work: Callable[[Sequence[Stage], Finish], None]) -> None:
    """Compute those of some stages that are not complete yet, and write the manifest of each as soon as it is.

    Args:
        work: computes the stages that it is given and calls the function for each that is computed. The time since the
            one before is counted for each.
    """
    require_not_stopped()
    missing = [stage for stage in stages if not _is_kept(stage, "complete, kept")]
    if not missing:
        return
    with ExitStack() as claimed:
        for stage in missing:
            claimed.enter_context(claim(stage))
        claimed.enter_context(at_work(stage=", ".join(stage.name for stage in missing)))
        missing = [stage for stage in missing if not _is_kept(stage, "computed by another run meanwhile, kept")]
        for stage in missing:
            for location in stage.set_aside_damaged():
                logger.warning("%s: %s is damaged; it was set aside and is computed again", stage.name, location)
            logger.info("%s: starts", stage.name)
            claimed.enter_context(recording(stage.folder))
        start = time.monotonic()

        def finish(stage: Stage, counters: Counters) -> None:
            nonlocal start
            seconds = time.monotonic() - start
            stage.complete(seconds, counters)
            _on_computed.get()(stage)
            with at_work(stage=stage.name):
                stage_ended(stage.name, seconds)
                logger.info("%s: complete in %.1f s", stage.name, seconds)
            start = time.monotonic()

        if missing:
            with tells_reason():
                work(missing, finish)


def _is_kept(stage: Stage, why: str) -> bool:
    """Return whether a stage is complete, and say why it is kept."""
    if not stage.is_complete():
        return False
    stage.manifest()  # fails early on a manifest of another version
    logger.info("%s: %s (%s)", stage.name, why, stage.fingerprint)
    return True
