"""Whoever asks for a part, and however often: what is answered is not asked again."""

import asyncio
import threading
from pathlib import Path

import pytest
from fault_server import ANSWER, FaultServer, Reply

from hydra_ray.config import ApiConfig, GeneratorConfig, PlacementConfig
from hydra_ray.engine.generator_actor import AskedPart, GeneratorActor, Loadable
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.errors import EndpointError
from hydra_ray.generate.completion_store import CompletionStore, Found, FoundFile
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.requests import make_request
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Completion, Message, Prompt

NUM_REQUESTS = 20


def generator(url: str) -> GeneratorConfig:
    api = ApiConfig(base_url=url, model="m", max_concurrent_requests=2)
    return GeneratorConfig(engine="openai", model="tokenizer", api=api)


def part(url: str) -> bytes:
    requests = [
        make_request(
            user_id="u",
            messages=(Message(role="user", content=f"question {number} of many"),),
            max_tokens=8,
            config=generator(url),
        )
        for number in range(NUM_REQUESTS)
    ]
    prompts, _ = prepare_prompts(requests, generator(url))
    return to_bytes(prompts, Prompt)


def answered(url: str, root: Path, asker: str) -> dict[str, Completion]:
    """Return the completions of the part that a copy of the generator of its own is asked by `asker`."""

    async def ask() -> bytes:
        actor = GeneratorActor(Loadable(task=TASKS["planted"], generator=generator(url), placement=PlacementConfig()))
        await actor.open()
        store = CompletionStore(root=str(root), name="0" * 16)
        rejected = to_bytes([], Completion)
        asked = AskedPart(store=store, asker=asker, bucket=3, rejected=rejected, known_files=())
        completions, _ = await actor.answer(asked, part(url))
        return completions

    return Found.in_files(from_bytes(asyncio.run(ask()), FoundFile)).of()


def test_two_stages_that_ask_the_same_at_the_same_time_pay_once(tmp_path: Path):
    found: list[dict[str, Completion]] = []
    with FaultServer(usual=Reply(seconds=0.05)) as server:
        threads = [
            threading.Thread(target=lambda asker=asker: found.append(answered(server.url, tmp_path, asker)))
            for asker in ("drafts-0", "drafts-1")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found[0] == found[1]
    assert len(found[0]) == NUM_REQUESTS
    assert len(server.calls) == NUM_REQUESTS


def test_what_was_answered_before_an_engine_died_is_not_asked_by_the_next(tmp_path: Path):
    with FaultServer(*[ANSWER] * 7, Reply(status=401)) as server:
        with pytest.raises(EndpointError):
            answered(server.url, tmp_path, "drafts-0")
        num_answered, num_calls = server.num_answered, len(server.calls)
        assert num_answered >= 7
        found = answered(server.url, tmp_path, "drafts-0")
    assert len(found) == NUM_REQUESTS
    assert len(server.calls) - num_calls <= NUM_REQUESTS - 7
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
