"""A copy of the generator on a worker of the cluster, as dispatch sees it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra_ray.engine.actors import threads_environment
from hydra_ray.engine.dispatch import CopyLostError, Part
from hydra_ray.engine.generator_actor import GeneratorActor, Loadable
from hydra_ray.engine.worker_errors import reason_of
from hydra_ray.errors import EndpointError, GenerationError
from hydra_ray.runs.resources import generator_bundle


class RemoteCopy:
    """A generator actor that is loaded."""

    def __init__(self, actor: Any, max_parts: int, node: str):
        self._actor = actor
        self.max_parts, self.node = max_parts, node

    async def answer(self, part: Part) -> tuple[bytes, float]:
        """Return the completions of a part and the seconds they took.

        Raises:
            CopyLostError: the actor or its node died, or its engine failed.
            HydraError: the generator answers nobody.
        """
        with _losses():
            return await self._actor.answer.remote(**part.content)

    async def under_way(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the progress of each part that it is answering, by asker and bucket; none where it has ended."""
        try:
            with _losses():
                return await self._actor.under_way.remote()
        except CopyLostError:
            return {}

    async def leaves_memory(self) -> bool:
        """Return whether its node has as much memory left as it holds itself; not where it has ended."""
        try:
            with _losses():
                return await self._actor.__ray_call__.remote(_leaves_memory)
        except CopyLostError:
            return False

    def end(self) -> None:
        """End the actor at once."""
        import ray

        ray.kill(self._actor)


async def start_copy(loadable: Loadable) -> RemoteCopy:
    """Start a generator actor and wait until it is loaded.

    Raises:
        CopyLostError: the actor died meanwhile.
        HydraError: the generator cannot be opened.
    """
    import ray

    placement = loadable.placement
    remote: Any = ray.remote(GeneratorActor)
    actor = remote.options(
        **generator_bundle(placement).options(),
        runtime_env=threads_environment(placement.generator_threads),
        max_restarts=0,
    ).remote(loadable)
    try:
        with _losses():
            node, max_parts = await asyncio.gather(actor.__ray_call__.remote(_node_of), actor.open.remote())
    except BaseException:
        ray.kill(actor)
        raise
    return RemoteCopy(actor, max_parts, node)


def _node_of(_: GeneratorActor) -> str:
    """Return the node on which an actor calls this function."""
    import ray

    return ray.get_runtime_context().get_node_id()


def _leaves_memory(_: GeneratorActor) -> bool:
    """Return whether as much memory is left as this process has ever held."""
    import resource

    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return get_system_memory() - get_used_memory() >= held


@contextmanager
def _losses() -> Iterator[None]:
    """Convert what Ray raises of an actor into a loss, or into the error of this package that the actor raised."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayActorError as error:
        raise CopyLostError(_told(error), is_expected=error.preempted) from None
    except ray.exceptions.RayTaskError as error:
        reason = reason_of(error)
        if reason is None:
            raise
        if isinstance(reason, GenerationError) and not isinstance(reason, EndpointError):
            raise CopyLostError(str(reason)) from None
        raise reason from None
    except ray.exceptions.RayError as error:  # such as that of the memory monitor
        raise CopyLostError(_told(error)) from None


def _told(error: Exception) -> str:
    """Return Ray's message on one line."""
    return " ".join(str(error).split())
