"""The actor that holds a copy of the generator and answers the requests of parts."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.generate.completion_store import CompletionStore, FoundFile
from hydra_ray.generate.engine import Engine
from hydra_ray.rows import Completion, Prompt
from hydra_ray.runs.lease import lease

_PLACED = ("generator_", "gpu_memory_fraction", "max_concurrent_sequences")
"""Beginnings of the names of those settings of the placement that are a generator's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loadable:
    """Everything that a copy of the generator is loaded by."""

    task: Task
    generator: GeneratorConfig
    placement: PlacementConfig

    @property
    def key(self) -> str:
        """Identifier that is equal where a copy loaded for one can answer for the other."""
        generator = self.generator.model_dump(mode="json", exclude={"max_failed_fraction", "batch"})
        placement = self.placement.model_dump(mode="json")
        placed = {name: value for name, value in placement.items() if name.startswith(_PLACED)}
        return json.dumps([self.task.model_dump(mode="json"), generator, placed], sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPart:
    """Requests of a part as a copy of the generator gets them."""

    store: CompletionStore
    asker: str
    bucket: int
    rejected: bytes
    """Completions of requests that cannot be run."""
    known_files: tuple[str, ...]
    """Names of the store's files of the bucket that have none of the requests."""


class GeneratorActor:
    """A generator in an actor: takes parts' requests, returns their completions and stores them as they arrive. The
    engine is opened and used in one event loop, which lives as long as it does."""

    def __init__(self, loadable: Loadable):
        self._loadable = loadable
        self._engine: Engine | None = None
        self._shares = Shares()
        self._under_way: dict[tuple[str, int], list[int]] = {}
        """Number of answers that are kept, and of requests, by asker and bucket."""

    async def under_way(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return the number of answers that are kept, and of requests, of each part being answered, by asker and
        bucket."""
        return {part: (num_answered, num_requests) for part, (num_answered, num_requests) in self._under_way.items()}

    async def open(self) -> int:
        """Load the generator; return the number of parts that are worth answering at the same time.

        Raises:
            HydraError: the generator cannot be opened.
        """
        from hydra_ray.generate.engines.opening import open_engine

        loadable = self._loadable
        self._engine = open_engine(loadable.generator, loadable.placement, loadable.task)
        return self._engine.max_parts

    async def answer(self, part: AskedPart, prompts: bytes) -> tuple[bytes, float]:
        """Return the completions of a part, with who asked for them (`FoundFile`), and the seconds that it took of the
        generator's time.

        Raises:
            EndpointError: the endpoint answers nobody.
            GenerationError: the engine failed and cannot be used any more.
        """
        # Concurrent runs with the same requests wait for each other here, and then find each other's answers.
        what = f"the answers of {part.asker}, part {part.bucket}"
        async with _held(lease(part.store.lease(part.bucket), what, is_of_part=True)):
            return await self._answer(
                part, list(from_bytes(prompts, Prompt)), list(from_bytes(part.rejected, Completion))
            )

    async def _answer(
        self, part: AskedPart, prompts: Sequence[Prompt], rejected: Sequence[Completion]
    ) -> tuple[bytes, float]:
        """Send only prompts without a known answer."""
        assert self._engine is not None, "the generator is not open"
        store, bucket, asker = part.store, part.bucket, part.asker
        found = await asyncio.to_thread(store.find, bucket, [each.request for each in prompts], part.known_files)
        known = found.of()
        new = [prompt for prompt in prompts if prompt.request.request_id not in known]
        counts = self._under_way[asker, bucket] = [0, len(new)]
        own = {name for name in (*part.known_files, *found.by_file) if name.startswith(asker)}
        try:
            with self._shares.one() as share:
                await asyncio.to_thread(_keep, store, bucket, asker, own, rejected)
                keep = partial(_keep, store, bucket, asker, own, counts=counts)
                completions = await self._engine.answer(new, keep)
                if len(own) > 1:
                    await asyncio.to_thread(store.merge, bucket, asker)
        finally:
            del self._under_way[asker, bucket]
        answered = FoundFile(name=asker, completions=(*rejected, *completions))
        return to_bytes([*found.files(), answered], FoundFile), share.seconds


def _keep(
    store: CompletionStore,
    bucket: int,
    asker: str,
    files: set[str],
    answered: Sequence[Completion],
    counts: list[int] | None = None,
) -> None:
    """Store answers, add the file to the asker's `files`, and count them as the first of `counts`."""
    name = store.write(bucket, asker, answered)
    if name is not None:
        files.add(name)
    if counts is not None:
        counts[0] += len(answered)


@dataclass(slots=True, eq=False)
class Share:
    """Time of one of several things that happen at the same moment."""

    seconds: float = 0.0


class Shares:
    """Divides time among what happens at the same moment, so that the shares add up to the time that passed."""

    def __init__(self) -> None:
        self._open: set[Share] = set()
        self._since = 0.0

    @contextmanager
    def one(self) -> Iterator[Share]:
        """Measure the block's share of the time."""
        share = Share()
        self._settle()
        self._open.add(share)
        try:
            yield share
        finally:
            self._settle()
            self._open.discard(share)

    def _settle(self) -> None:
        now = time.monotonic()
        for share in self._open:
            share.seconds += (now - self._since) / len(self._open)
        self._since = now


@asynccontextmanager
async def _held(held: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Enter and leave a context that may wait, in other threads, so that the event loop goes on."""
    await asyncio.to_thread(held.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(held.__exit__, None, None, None)
