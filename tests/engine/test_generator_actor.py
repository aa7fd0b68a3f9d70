import asyncio
from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import PlacementConfig
from hydra_ray.engine.generator_actor import GeneratorActor
from hydra_ray.engine.row_bytes import to_bytes
from hydra_ray.errors import ConfigError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Prompt


def batch() -> dict[str, Any]:
    return {"bucket": [0], "asked": [b""], "prompts": [to_bytes([], Prompt)], "rejected": [to_bytes([], Completion)]}


def test_a_generator_that_cannot_be_opened_is_an_error_of_the_first_call(tmp_path, monkeypatch: pytest.MonkeyPatch):
    # An actor whose constructor fails is started again and again, and its error is Ray's own.
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    api = {"base_url": "http://localhost/v1", "model": "m", "api_key_env": "HYDRA_TEST_KEY"}
    generator = run_config(generator={"engine": "openai", "api": api}).generator
    store = CompletionStore(root=str(tmp_path), name="s")
    actor = GeneratorActor(TASKS["planted"], generator, PlacementConfig(), store, "probes")
    with pytest.raises(ConfigError, match="HYDRA_TEST_KEY, which is not set where the generator runs"):
        asyncio.run(actor(batch()))


def test_an_engine_is_opened_once_and_used_in_the_loop_that_opened_it(tmp_path, monkeypatch: pytest.MonkeyPatch):
    loops: list[asyncio.AbstractEventLoop] = []

    class Engine:
        def __init__(self) -> None:
            loops.append(asyncio.get_running_loop())

        async def answer(self, *_: Any) -> list[Completion]:
            loops.append(asyncio.get_running_loop())
            return []

    monkeypatch.setattr("hydra_ray.generate.engines.opening.open_engine", lambda *_: Engine())
    store = CompletionStore(root=str(tmp_path), name="s")
    actor = GeneratorActor(TASKS["planted"], run_config().generator, PlacementConfig(), store, "probes")

    async def parts() -> asyncio.AbstractEventLoop:
        for _ in range(2):
            await actor(batch())
        return asyncio.get_running_loop()

    loop = asyncio.run(parts())
    assert loops == [loop] * 3
