"""Errors that a worker raised, or what its death means, re-raised in this process without Ray's wrapping."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra_ray.engine.actors import MAX_RESTARTS
from hydra_ray.errors import GenerationError, HydraError, WorkerError

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError

_ADDED_BY_RAY = "\nFailed to "
"""Start of the text that Ray Data appends about the configuration of its retries."""


@contextmanager
def tells_reason() -> Iterator[None]:
    """Re-raise an error of this package that a worker raised as if it had been raised here; others pass unchanged.

    Raises:
        HydraError: raised by a worker.
    """
    try:
        yield
    except Exception as error:
        # Only task errors are unwrapped; most work needs no Ray.
        if "ray" not in sys.modules or not isinstance(error, _of_tasks()):
            raise
        reason = reason_of(error)
        if reason is None:
            raise
        raise reason from None


@contextmanager
def worker_errors(name: str) -> Iterator[None]:
    """Re-raise what a worker raised, or what its death means, as one of this package's errors.

    Args:
        name: stage or stages that it worked on.
    """
    import ray.exceptions

    try:
        with tells_reason():
            yield
    except ray.exceptions.RayActorError as error:
        raise GenerationError(
            f"stage {name}: the worker died {MAX_RESTARTS + 1} times at the same part; see its output in Ray's "
            f"logs. Committed parts are kept: {error}"
        ) from error
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"stage {name}: Ray could not do the work: {error}. Committed parts are kept: run again when the "
            "cluster is healthy."
        ) from error


def _of_tasks() -> "type[RayTaskError]":
    from ray.exceptions import RayTaskError

    return RayTaskError


def reason_of(error: BaseException) -> HydraError | None:
    """Return this package's error for which a task, or Ray Train's workers, failed; None for any other error."""
    if isinstance(error, _of_tasks()):
        return reason_of(error.cause)
    for failure in getattr(error, "worker_failures", {}).values():
        return reason_of(failure)
    if not isinstance(error, HydraError):
        return None
    return type(error)(str(error).partition(_ADDED_BY_RAY)[0])
