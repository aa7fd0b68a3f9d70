"""What a worker raised, in this process: Ray hands it over with the whole way that it took."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hydra_ray.errors import HydraError

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError

_ADDED_BY_RAY = "\nFailed to "
"""How what Ray Data appends begins: how its own retries are configured."""


@contextmanager
def tells_reason() -> Iterator[None]:
    """Raise an error of ours that a worker raised as if it had been raised here; any other as Ray tells it.

    Raises:
        HydraError: a worker raised it.
    """
    try:
        yield
    except Exception as error:
        # Of other errors than a task's nothing is to be told anew; most work needs no Ray.
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
    """Return the error of ours for which a task, or Ray Train's workers, failed; None where it is no error of ours."""
    if isinstance(error, _of_tasks()):
        return reason_of(error.cause)
    for failure in getattr(error, "worker_failures", {}).values():
        return reason_of(failure)
    if not isinstance(error, HydraError):
        return None
    return type(error)(str(error).partition(_ADDED_BY_RAY)[0])
