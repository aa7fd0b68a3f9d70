"""The asynchronous runner with an engine of the test's own; with vLLM's in test_vllm_async.py."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from hydra_ray.generate.engines.vllm_runners import AsyncRunner


class FakeEngine:
    """Answers a prompt, which is a text here, by itself, once the gate is open; at most `num_sequences` at a time."""

    def __init__(self, num_sequences: int):
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=num_sequences))
        self.begun: list[str] = []
        self.aborted: list[str] = []
        self.num_inside, self.most_inside = 0, 0
        self.gate, self.is_shut = asyncio.Event(), False

    async def generate(self, prompt: str, params: Any, name: str):
        self.begun.append(prompt)
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        try:
            await self.gate.wait()
            if prompt == "bad":
                raise RuntimeError("the engine died")
            yield prompt
        except asyncio.CancelledError:
            self.aborted.append(prompt)
            raise
        finally:
            self.num_inside -= 1

    def shutdown(self):
        self.is_shut = True


@pytest.fixture
def runner():
    async def start() -> Any:
        return FakeEngine(2)

    runner = AsyncRunner(start)
    yield runner
    if runner._thread.is_alive():
        runner.close()


async def answers(runner: AsyncRunner, texts: list[str]) -> list[str]:
    found = {}
    async for answered in runner.run([(text, None) for text in texts]):  # type: ignore[misc]
        found |= dict(answered)
    return [found[place] for place in range(len(texts))]


def open_gate(runner: AsyncRunner):
    runner._loop.call_soon_threadsafe(runner.engine.gate.set)  # type: ignore[attr-defined]


async def begins(runner: AsyncRunner, num: int):
    """Wait until the engine has begun a number of prompts."""
    while len(runner.engine.begun) < num:  # type: ignore[attr-defined]
        await asyncio.sleep(0)


def test_prompts_are_given_in_order_as_far_as_there_is_room_for_all_parts_together(runner):
    texts = {name: [f"{name}{number}" for number in range(20)] for name in "abc"}

    async def all_parts():
        async with asyncio.TaskGroup() as tasks:
            made = {name: tasks.create_task(answers(runner, each)) for name, each in texts.items()}
            await begins(runner, 4)
            assert runner.engine.begun == texts["a"][:4]
            open_gate(runner)
        return {name: task.result() for name, task in made.items()}

    assert asyncio.run(all_parts()) == texts
    assert runner.engine.most_inside <= 4
    for name, each in texts.items():
        assert [text for text in runner.engine.begun if text.startswith(name)] == each


def test_an_error_of_one_prompt_is_the_parts_error_and_ends_its_others(runner):
    async def ask():
        task = asyncio.create_task(answers(runner, ["x", "bad", *map(str, range(20))]))
        await begins(runner, 4)
        open_gate(runner)
        await task

    with pytest.raises(RuntimeError, match="the engine died"):
        asyncio.run(ask())
    assert runner.engine.num_inside == 0


def test_a_part_that_nobody_waits_for_any_more_is_aborted_and_leaves_its_room(runner):
    async def ask():
        task = asyncio.create_task(answers(runner, list("abcdefgh")))
        await begins(runner, 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while len(runner.engine.aborted) < 4:
            await asyncio.sleep(0)
        open_gate(runner)
        return await answers(runner, ["next"] * 9)

    assert asyncio.run(ask()) == ["next"] * 9
    assert runner.engine.begun == [*"abcd", *["next"] * 9]


def test_callers_of_several_event_loops_are_served_by_the_engines_own(runner):
    open_gate(runner)
    assert [asyncio.run(answers(runner, [name])) for name in "ab"] == [["a"], ["b"]]


def test_an_empty_part_has_no_answers(runner):
    assert asyncio.run(answers(runner, [])) == []


def test_closing_ends_the_engine_and_its_thread(runner):
    runner.close()
    assert runner.engine.is_shut
    assert not runner._thread.is_alive()


def test_an_engine_that_does_not_start_leaves_no_thread():
    async def fail() -> Any:
        raise RuntimeError("no memory left")

    before = {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="no memory left"):
        AsyncRunner(fail)
    assert {thread.name for thread in threading.enumerate()} == before
