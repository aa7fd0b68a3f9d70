"""Errors that a worker raised, re-raised in this process without Ray's wrapping."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra_ray.errors import HydraError

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
