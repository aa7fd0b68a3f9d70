"""The pool of a job's generators: copies stay loaded over stages, runs and trials, while nothing else needs room.

The pool is one actor on the driver's node that reserves nothing. It outlives the stages that ask, owns all copies, and
ends with the driver. Work beside the generator says what it demands before it begins; idle copies in its way are ended.
"""

import asyncio
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from hydra_ray.config import PlacementConfig
from hydra_ray.engine.dispatch import Dispatch, Part
from hydra_ray.engine.generator_actor import Loadable
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.engine.remote_copy import RemoteCopy, start_copy
from hydra_ray.engine.under_way import Answered, telling_of
from hydra_ray.runs.resources import Demand, Node, fits_beside, generator_bundle, kept_beside

_NAME = "hydra_ray-generators"
_DRAIN_POLL_SECONDS = 5.0
_TOLD_WITHIN_SECONDS = 5.0
_MAX_PARTS = 100_000
"""Maximum number of parts that wait in the pool at the same time."""

_own_pools: list[Any] = []
_blocks: list[None] = []


class GeneratorPool:
    """Generators of one job, each with its copies. All methods run in one event loop."""

    def __init__(self) -> None:
        self._loadables: dict[str, Loadable] = {}
        self._dispatches: dict[str, Dispatch[RemoteCopy]] = {}
        self._demands: dict[str, Sequence[Demand]] = {}
        """Demands of the work under way beside the generators, by who does it."""
        self._last_asked = ""
        self._watch: asyncio.Task[None] | None = None

    async def offer(self, key: str, loadable: Loadable) -> None:
        """Make a generator known, so that parts may be asked of it; nothing is loaded."""
        self._loadables[key] = loadable

    async def answer(self, key: str, part: Part) -> tuple[bytes, float]:
        """Return the completions of a part, and the seconds that they took of a copy's time.

        Raises:
            HydraError: see `Dispatch.answer`.
        """
        dispatch, self._last_asked = self._dispatch(key), key
        self._watch = self._watch or asyncio.ensure_future(self._retire_drained())
        await self._make_room(key)
        try:
            return await dispatch.answer(part)
        finally:
            await self._make_room()

    async def give_up(self, owner: str) -> None:
        """Answer no more parts of an owner."""
        for dispatch in self._dispatches.values():
            dispatch.give_up(owner)

    async def enter(self, work: str, demands: Sequence[Demand]) -> None:
        """Make room for work beside the generators, until it leaves."""
        self._demands[work] = demands
        await self._make_room()

    async def leave(self, work: str) -> None:
        """Forget the demands of work that has ended."""
        self._demands.pop(work, None)

    async def under_way(self, owner: str) -> list[Answered]:
        """Return the progress of the parts of an owner that are being answered."""
        asked = [each for dispatch in self._dispatches.values() for each in dispatch.asked_copies(owner)]
        found = await asyncio.gather(*(copy.under_way() for copy, _ in asked))
        return [
            Answered(stage=part.stage, bucket=part.bucket, num_answered=counts[0], num_requests=counts[1])
            for (_, parts), progress in zip(asked, found, strict=True)
            for part in parts
            if (counts := progress.get((part.content["part"].asker, part.bucket))) is not None
        ]

    async def num_started(self) -> int:
        """Return how many copies were loaded since the pool began."""
        return sum(dispatch.num_started for dispatch in self._dispatches.values())

    def _dispatch(self, key: str) -> Dispatch[RemoteCopy]:
        if key not in self._dispatches:
            loadable = self._loadables[key]
            self._dispatches[key] = Dispatch(lambda: start_copy(loadable), loadable.placement.generator_actors)
        return self._dispatches[key]

    async def _make_room(self, asked: str = "") -> None:
        """End idle copies that other work, or another generator that parts wait for, wants the room of.

        Args:
            asked: generator that is about to be asked, all of whose copies stay.
        """
        demands = [demand for demands in self._demands.values() for demand in demands]
        for key, dispatch in list(self._dispatches.items()):
            if key != asked and dispatch.is_idle and dispatch.num_copies:
                if key != self._last_asked:
                    dispatch.end_idle({})
                elif demands:
                    bundle = generator_bundle(self._loadables[key].placement)
                    nodes = await asyncio.to_thread(_nodes)
                    if dispatch.is_idle:
                        dispatch.end_idle(kept_beside(bundle, dispatch.copies(), demands, nodes))
                    # Models on a GPU hold little else, and what Ray reserves is no memory.
                    for copy in dispatch.idle_copies() if not bundle.gpus else ():
                        if not await copy.leaves_memory():
                            dispatch.end_copy(copy)

    async def _retire_drained(self) -> None:
        """Give no more parts to copies on nodes that are about to go away, while any part is answered."""
        while True:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
            if all(dispatch.is_idle for dispatch in self._dispatches.values()):
                self._watch = None
                return
            drained = await asyncio.to_thread(_draining_nodes)
            for dispatch in self._dispatches.values():
                dispatch.retire(drained)


def open_pool() -> Any:
    """Return the job's pool, started where there is none yet; it ends with the process that started it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    start_ray()
    if (pool := _running_pool()) is not None:
        return pool
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(GeneratorPool)
    pool = remote.options(name=_NAME, num_cpus=0, max_concurrency=_MAX_PARTS, scheduling_strategy=here).remote()
    _own_pools.append(pool)
    return pool


@contextmanager
def generators_kept() -> Iterator[None]:
    """Keep generators loaded until the end of the outermost of such blocks of this process, or of the process that
    started the job's pool."""
    _blocks.append(None)
    try:
        yield
    finally:
        _blocks.pop()
        while _own_pools and not _blocks:
            import ray

            pool = _own_pools.pop()
            if ray.is_initialized():
                ray.kill(pool)


@contextmanager
def asked_of(pool: Any) -> Iterator[str]:
    """Yield the name of an owner of parts, which the pool gives up if the block fails; how far its parts are is logged
    while they take long."""
    import ray
    import ray.exceptions

    owner = uuid.uuid4().hex

    def under_way() -> list[Answered]:
        try:
            return ray.get(pool.under_way.remote(owner), timeout=_TOLD_WITHIN_SECONDS)
        except (ray.exceptions.RayError, RuntimeError):  # the pool, or Ray, has ended, or has much to do
            return []

    try:
        with telling_of(under_way):
            yield owner
    except BaseException:
        # At the end of a process blocks are closed after Ray.
        if ray.is_initialized():
            with suppress(ray.exceptions.RayError):
                pool.give_up.remote(owner)
        raise


@contextmanager
def room_for(demands: Sequence[Demand]) -> Iterator[None]:
    """End the idle copies of generators that are in the way of other work, now and during the block."""
    pool = _running_pool() if demands else None
    if pool is None:
        yield
        return
    import ray

    work = uuid.uuid4().hex
    ray.get(pool.enter.remote(work, demands))
    try:
        yield
    finally:
        if ray.is_initialized():
            pool.leave.remote(work)


def has_room_beside(placement: PlacementConfig, demands: Sequence[Demand]) -> bool:
    """Return whether other work finds room while all copies of the generator are at work. Starts Ray."""
    start_ray()
    return fits_beside(generator_bundle(placement), placement.generator_actors, demands, _nodes())


def _running_pool() -> Any:
    """Return the job's pool; None where there is none, or no Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    try:
        return ray.get_actor(_NAME)
    except ValueError:
        return None


def _nodes() -> list[Node]:
    """Return the nodes that live."""
    import ray

    return [
        Node(name=node["NodeID"], amounts=node["Resources"], labels=node["Labels"])
        for node in ray.nodes()
        if node["Alive"]
    ]


def _draining_nodes() -> set[str]:
    """Return the nodes that are being drained, as those of spot instances are before they are taken away."""
    from ray._private.state import state

    return set(state.get_draining_nodes())
