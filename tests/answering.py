"""Engines asked from code that has no event loop."""

import asyncio
from collections.abc import Sequence

from hydra_ray.config import GeneratorConfig
from hydra_ray.generate.engine import Engine, Keep, keep_nowhere
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.rows import Completion, Request

TEXTS = GeneratorConfig(engine="fake", model="fake")


def answered(
    engine: Engine, requests: Sequence[Request], keep: Keep = keep_nowhere, config: GeneratorConfig = TEXTS
) -> list[Completion]:
    """What an engine answers to one part; without a configuration, one that takes texts."""
    prompts, rejected = prepare_prompts(requests, config)
    return rejected + asyncio.run(engine.answer(prompts, keep))
