"""The actor that holds a generator and answers the requests of parts."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.errors import EndpointError, GenerationError, HydraError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.rows import Completion, Prompt
from hydra_ray.runs.lease import lease

logger = logging.getLogger(__name__)


class GeneratorActor:
    """A generator in a Ray Data actor: takes one part's requests, returns their completions and stores them as they
    arrive."""

    def __init__(
        self, task: Task, generator: GeneratorConfig, placement: PlacementConfig, store: CompletionStore, asker: str
    ):
        from hydra_ray.generate.engines.opening import open_engine

        self._engine, self._unopened = None, None
        try:
            self._engine = open_engine(generator, placement, task)
        except HydraError as error:
            self._unopened = error  # raised by the first call: Ray would start an actor that fails to start again
        self._store, self._asker = store, asker

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answer the requests of the one part in `batch`.

        Raises:
            HydraError: the generator could not be opened, or its endpoint answers nobody.
        """
        bucket, prompts = int(batch["bucket"][0]), list(from_bytes(batch["prompts"][0], Prompt))
        rejected = list(from_bytes(batch["rejected"][0], Completion))
        # Concurrent runs with the same requests wait for each other here, and then find each other's answers.
        with lease(self._store.lease(bucket), f"the answers of {self._asker}, part {bucket}", is_of_part=True):
            return {"bucket": batch["bucket"], "asked": batch["asked"], **self._answer(bucket, prompts, rejected)}

    def _answer(self, bucket: int, prompts: Sequence[Prompt], rejected: Sequence[Completion]) -> dict[str, Any]:
        """Return the completions of a part, sending only prompts without a known answer, and the time taken."""
        known = self._store.read(bucket, [prompt.request for prompt in prompts])
        new = [prompt for prompt in prompts if prompt.request.request_id not in known]
        start = time.monotonic()
        if self._engine is None:
            raise self._unopened or GenerationError("the generator is not open")
        try:
            self._store.write(bucket, self._asker, rejected)
            completions = asyncio.run(self._engine.answer(new, partial(self._store.write, bucket, self._asker)))
        except EndpointError:
            raise
        except GenerationError:
            # A failed engine is not reused: the actor exits, and Ray starts another one for this part.
            logger.exception("the generator died")
            os._exit(1)
        self._store.merge(bucket, self._asker)
        return {
            "completions": [to_bytes([*known.values(), *rejected, *completions], Completion)],
            "seconds": [time.monotonic() - start],
        }
