"""Workers of Ray Data's operators: their number, environment and restarts, and the certain end of actors."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

MAX_RESTARTS = 3
"""Maximum number of restarts of an actor that died, before the run fails."""


@contextmanager
def own_actors(max_restarts: int = MAX_RESTARTS) -> Iterator[Callable[[], dict[str, Any]]]:
    """Yield a function that returns the options of each new actor; all of these actors end with the block.

    Ray Data itself restarts actors without limit. It ends them by dropping its references, so one that was restarted in
    the meantime would keep the CPUs that the next stage waits for. Calls are repeated without limit until an actor was
    restarted too often: while a lost node is not yet known to be lost, calls fail at once, as often as they are made.

    Args:
        max_restarts: maximum number of restarts of an actor; -1 for any number.
    """
    import ray

    names: list[str] = []

    def new_actor() -> dict[str, Any]:
        names.append(f"hydra_ray-{uuid.uuid4().hex}")
        return {"name": names[-1], "max_restarts": max_restarts, "max_task_retries": -1}

    try:
        yield new_actor
    finally:
        # At the end of a process blocks are closed after Ray, which has ended the actors.
        for name in names if ray.is_initialized() else ():
            with suppress(ValueError):  # it has already ended
                ray.kill(ray.get_actor(name))


def pool_of(size: int) -> Any:
    """Return the strategy of an operator with `size` actors."""
    import ray.data

    return ray.data.ActorPoolStrategy(size=size)


def tasks_of(size: int) -> Any:
    """Return the strategy of an operator with at most `size` tasks at a time."""
    import ray.data

    return ray.data.TaskPoolStrategy(size=size)


def callers_of(size: int, num_parts: int) -> Any:
    """Return the strategy of an operator with `size` actors, each of which waits for up to `num_parts` parts."""
    import ray.data

    return ray.data.ActorPoolStrategy(
        size=size, max_concurrent_calls_per_actor=num_parts, max_tasks_in_flight_per_actor=num_parts
    )


def threads_environment(num_threads: int) -> dict[str, Any]:
    """Return the runtime environment of a worker that computes with `num_threads` OpenMP threads."""
    return {"env_vars": {"OMP_NUM_THREADS": str(num_threads)}}
