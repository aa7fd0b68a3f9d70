import asyncio
from typing import Any

import pytest
from builders import run_config

from hydra_ray.config import PlacementConfig, RunConfig
from hydra_ray.engine.generator_actor import AskedPart, GeneratorActor, Loadable, Shares
from hydra_ray.engine.row_bytes import to_bytes
from hydra_ray.errors import ConfigError
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Prompt


def loadable(config: RunConfig) -> Loadable:
    return Loadable(task=TASKS["planted"], generator=config.generator, placement=config.placement)


def test_a_generator_that_cannot_be_opened_is_an_error_of_opening_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HYDRA_TEST_KEY", raising=False)
    api = {"base_url": "http://localhost/v1", "model": "m", "api_key_env": "HYDRA_TEST_KEY"}
    actor = GeneratorActor(loadable(run_config(generator={"engine": "openai", "api": api})))
    with pytest.raises(ConfigError, match="HYDRA_TEST_KEY, which is not set where the generator runs"):
        asyncio.run(actor.open())


def test_an_engine_is_opened_once_and_used_in_the_loop_that_opened_it(tmp_path, monkeypatch: pytest.MonkeyPatch):
    loops: list[asyncio.AbstractEventLoop] = []

    class Engine:
        max_parts = 3

        def __init__(self) -> None:
            loops.append(asyncio.get_running_loop())

        async def answer(self, *_: Any) -> list[Completion]:
            loops.append(asyncio.get_running_loop())
            return []

    monkeypatch.setattr("hydra_ray.generate.engines.opening.open_engine", lambda *_: Engine())
    store = CompletionStore(root=str(tmp_path), name="s")
    actor = GeneratorActor(loadable(run_config()))

    async def parts() -> asyncio.AbstractEventLoop:
        assert await actor.open() == 3
        for bucket in range(2):
            rejected = to_bytes([], Completion)
            part = AskedPart(store=store, asker="probes", bucket=bucket, rejected=rejected, known_files=())
            await actor.answer(part, to_bytes([], Prompt))
        return asyncio.get_running_loop()

    assert asyncio.run(parts()) == loops[0]
    assert loops == loops[:1] * 3


def test_a_loaded_copy_answers_for_all_whose_settings_are_those_that_loading_depends_on():
    usual = loadable(run_config())
    others = {"probes": {"num_records": 2}, "placement": {"encoder_actors": 3}}
    assert loadable(run_config(**others)).key == usual.key
    assert loadable(run_config(generator={"max_failed_fraction": 0.5})).key == usual.key
    assert loadable(run_config(generator={"dtype": "float32"})).key != usual.key
    assert loadable(run_config(placement={"generator_threads": 1})).key != usual.key
    assert PlacementConfig().generator_threads != 1


def test_shares_of_parts_answered_at_the_same_time_add_up_to_the_time_that_passed(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr("hydra_ray.engine.generator_actor.time.monotonic", lambda: now)
    shares = Shares()
    with shares.one() as first:
        now = 4.0
        with shares.one() as second:
            now = 10.0
        now = 11.0
    assert (first.seconds, second.seconds) == (4 + 3 + 1, 3)
