"""Measured calibration: a few requests of each generating stage on the loaded generator.

All requests of a user are sent together, so that prompts share prefixes as in the run. The answers are discarded: they
may depend on the batch, and a run's answers must not depend on whether it was calibrated.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.errors import GenerationError
from hydra_ray.forecast.past_runs import Observation
from hydra_ray.generate.engine import Engine
from hydra_ray.generate.engines.opening import open_engine
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.rows import Prompt, Request

NUM_REQUESTS = 48
"""Number of requests per stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Result of a calibration."""

    observations: tuple[Observation, ...]
    written: Mapping[str, float]
    """Mean number of tokens of a generation, by stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationJob:
    """Input of a calibration on a worker."""

    generator: GeneratorConfig
    placement: PlacementConfig
    task: Task
    requests: Mapping[str, Sequence[Request]]
    """Requests to send, by stage."""


def measure(job: CalibrationJob) -> Calibration:
    """Load the generator, send the requests stage by stage, and release its memory.

    Raises:
        ModelError: the generator cannot be loaded.
        GenerationError: it failed, or answered no request.
    """
    measured = asyncio.run(_measure(job))
    if not any(lengths for _, lengths in measured.values()):
        raise GenerationError("the generator answered none of the calibration's requests: see its log")
    return Calibration(
        observations=tuple(observation for observation, _ in measured.values()),
        written={name: sum(lengths) / len(lengths) for name, (_, lengths) in measured.items() if lengths},
    )


def chosen_requests(by_user: Sequence[Sequence[Request]], num_requests: int) -> list[Request]:
    """Return the requests of the first users, up to `num_requests`."""
    found: list[Request] = []
    for own in by_user:
        found.extend(own[: num_requests - len(found)])
    return found


async def _measure(job: CalibrationJob) -> dict[str, tuple[Observation, list[int]]]:
    """Return what `_observe` does for each stage that has requests."""
    engine = open_engine(job.generator, job.placement, job.task)
    prompts = {name: prepare_prompts(requests, job.generator)[0] for name, requests in job.requests.items()}
    try:
        # The first batch includes one-time initialization.
        await engine.answer([each[-1] for each in prompts.values() if each])
        return {name: await _observe(engine, each) for name, each in prompts.items() if each}
    finally:
        engine.close()


async def _observe(engine: Engine, prompts: Sequence[Prompt]) -> tuple[Observation, list[int]]:
    """Return the tokens and time that the prompts took, and the length of each generation."""
    start = time.monotonic()
    completions = await engine.answer(prompts)
    seconds = time.monotonic() - start
    lengths = [generation.num_tokens for completion in completions for generation in completion.generations]
    observation = Observation(
        prompt_tokens=sum(completion.prompt_tokens for completion in completions),
        generated_tokens=sum(lengths),
        seconds=seconds,
    )
    return observation, lengths
