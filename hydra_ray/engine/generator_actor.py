"""The actor that holds a generator and answers the requests of parts."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Any

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.errors import EndpointError, GenerationError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engine import Engine
from hydra_ray.rows import Completion, Prompt
from hydra_ray.runs.lease import lease

logger = logging.getLogger(__name__)


class GeneratorActor:
    """A generator in a Ray Data actor: takes one part's requests, returns their completions and stores them as they
    arrive. The engine is opened and used in one event loop, which lives as long as it does."""

    def __init__(
        self, task: Task, generator: GeneratorConfig, placement: PlacementConfig, store: CompletionStore, asker: str
    ):
        self._task, self._generator, self._placement = task, generator, placement
        self._store, self._asker = store, asker
        self._engine: Engine | None = None

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the requests of the one part in `batch`.

        Raises:
            HydraError: the generator could not be opened, or its endpoint answers nobody.
        """
        bucket, prompts = int(batch["bucket"][0]), list(from_bytes(batch["prompts"][0], Prompt))
        rejected = list(from_bytes(batch["rejected"][0], Completion))
        engine = self._opened()
        # Concurrent runs with the same requests wait for each other here, and then find each other's answers.
        what = f"the answers of {self._asker}, part {bucket}"
        async with _held(lease(self._store.lease(bucket), what, is_of_part=True)):
            answered = await self._answer(engine, bucket, prompts, rejected)
        return {"bucket": batch["bucket"], "asked": batch["asked"], **answered}

    def _opened(self) -> Engine:
        """Return the engine, opened by the first call: Ray would start an actor that fails to start again."""
        if self._engine is None:
            from hydra_ray.generate.engines.opening import open_engine

            self._engine = open_engine(self._generator, self._placement, self._task)
        return self._engine

    async def _answer(
        self, engine: Engine, bucket: int, prompts: Sequence[Prompt], rejected: Sequence[Completion]
    ) -> dict[str, Any]:
        """Return the completions of a part, sending only prompts without a known answer, and the time taken."""
        store, asker = self._store, self._asker
        known = await asyncio.to_thread(store.read, bucket, [prompt.request for prompt in prompts])
        new = [prompt for prompt in prompts if prompt.request.request_id not in known]
        start = time.monotonic()
        try:
            await asyncio.to_thread(store.write, bucket, asker, rejected)
            completions = await engine.answer(new, partial(store.write, bucket, asker))
        except EndpointError:
            raise
        except GenerationError:
            # A failed engine is not reused: the actor exits, and Ray starts another one for this part.
            logger.exception("the generator died")
            os._exit(1)
        await asyncio.to_thread(store.merge, bucket, asker)
        return {
            "completions": [to_bytes([*known.values(), *rejected, *completions], Completion)],
            "seconds": [time.monotonic() - start],
        }


@asynccontextmanager
async def _held(held: AbstractContextManager[None]) -> AsyncIterator[None]:
    """Enter and leave a context that may wait, in other threads, so that the event loop goes on."""
    await asyncio.to_thread(held.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(held.__exit__, None, None, None)
