"""Single pieces of work on workers of the cluster, with results that this process need not hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hydra_ray.config import PlacementConfig
from hydra_ray.engine.actors import threads_environment
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.runs.resources import encoder_bundle

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Kept(Generic[ResultT]):
    """A result in the memory of the cluster, which may be handed to workers."""

    reference: Any

    def value(self) -> ResultT:
        """Return the result, fetched to this process."""
        import ray

        return ray.get(self.reference)


def run_task(work: Callable[..., ResultT], *arguments: object, placement: PlacementConfig) -> ResultT:
    """Run one piece of work that loads an encoder on a worker of the cluster and return its result."""
    return keep_result(work, *arguments, placement=placement).value()


def keep_result(work: Callable[..., ResultT], *arguments: object, placement: PlacementConfig) -> Kept[ResultT]:
    """Run one piece of work that loads an encoder on a worker of the cluster and leave its result there.

    Whatever the work raises is raised here.
    """
    import ray

    start_ray()
    remote: Any = ray.remote(
        num_returns=2,
        runtime_env=threads_environment(placement.encoder_threads),
        **encoder_bundle(placement).options(),
    )
    # The second result is nothing: to get it waits for the work, without what it made.
    result, done = remote(_with_end).remote(work, *arguments)
    ray.get(done)
    return Kept(result)


def _with_end(work: Callable[..., ResultT], *arguments: object) -> tuple[ResultT, None]:
    return work(*arguments), None
