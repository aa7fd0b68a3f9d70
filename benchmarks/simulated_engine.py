"""How full a GPU's engine is kept: the stage's loop against the same simulated engine that is given all at once.

    python benchmarks/simulated_engine.py [--requests N] [--former]

The engine decodes up to 1,024 sequences. A step takes 8 ms and 0.02 ms a sequence, and prompts are computed at 60,000
tokens a second, 16,384 in a step; these are round figures of a model of 7 billion parameters on one H100. It sleeps for
as long, in a thread. What vLLM itself computes for each request beside the GPU is not simulated. Ours is the loop of
the generator's actor: prompts from bytes, up to 16 parts at the same time, answers read, kept in files, and merged.
--former adds what it is compared with: one part at a time, 64 sequences.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

from harness import Figure, alternate, parser_of, tell

from hydra_ray.config import GeneratorConfig
from hydra_ray.engine.row_bytes import from_bytes, to_bytes
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engines.vllm import VllmEngine
from hydra_ray.generate.engines.vllm_runners import AsyncRunner
from hydra_ray.rows import Completion, Message, Prompt, Request

MIN_RATIO = 0.95
PARTS, ANSWERS = (300, 2000), (4, 24, 64)
SEQUENCES, STEP_SECONDS, SEQUENCE_SECONDS = 1024, 0.008, 0.00002
PROMPT_TOKENS, PROMPT_TOKENS_A_SECOND, PROMPT_TOKENS_A_STEP = 120, 60_000, 16_384
WORDS = ("comedy", "drama", "history", "a long and winding road")


@dataclass(slots=True, kw_only=True)
class Running:
    """A request inside the engine."""

    num_left: int
    """Tokens that are still to be generated."""
    num_tokens: int
    ended: "asyncio.Future[Any]"
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True, kw_only=True)
class SimulatedEngine:
    """An engine in a thread with the interface of vLLM's AsyncLLM, as far as the runner uses it."""

    num_sequences: int
    busy_seconds: float = 0.0
    vllm_config: Any = field(init=False)
    _waiting: "deque[Running]" = field(default_factory=deque)
    _has_come: threading.Event = field(default_factory=threading.Event)
    _is_over: bool = False

    def __post_init__(self) -> None:
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=self.num_sequences))
        threading.Thread(target=self._run, daemon=True).start()

    async def generate(self, _: Any, params: Any, name: str) -> AsyncGenerator[Any, None]:
        """Yield the final output of a request, of as many tokens as it may have."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self.add([Running(num_left=params.max_tokens, num_tokens=params.max_tokens, ended=ended, loop=loop)])
        num_tokens = await ended
        text = WORDS[int(name) % len(WORDS)]
        output = SimpleNamespace(
            index=0,
            text=text,
            token_ids=[0] * num_tokens,
            finish_reason="stop",
            cumulative_logprob=-1.0,
            logprobs=None,
        )
        yield SimpleNamespace(prompt_token_ids=[0] * PROMPT_TOKENS, outputs=[output])

    def add(self, sequences: Sequence[Running]) -> None:
        """Put sequences at the end of the line."""
        self._waiting.extend(sequences)
        self._has_come.set()

    def shutdown(self) -> None:
        """End the thread."""
        self._is_over = True
        self._has_come.set()

    def _run(self) -> None:
        running: list[Running] = []
        while not self._is_over:
            if not running and not self._waiting:
                self._has_come.wait()
                self._has_come.clear()
                continue
            prompt_tokens = 0
            while self._waiting and len(running) < self.num_sequences:
                if prompt_tokens + PROMPT_TOKENS > PROMPT_TOKENS_A_STEP:
                    break
                running.append(self._waiting.popleft())
                prompt_tokens += PROMPT_TOKENS
            seconds = STEP_SECONDS + SEQUENCE_SECONDS * len(running) + prompt_tokens / PROMPT_TOKENS_A_SECOND
            time.sleep(seconds)
            self.busy_seconds += seconds
            for each in running:
                each.num_left -= 1
            ended = [each for each in running if not each.num_left]
            running = [each for each in running if each.num_left]
            if ended:
                ended[0].loop.call_soon_threadsafe(_end, ended)


def _end(sequences: Sequence[Running]) -> None:
    for each in sequences:
        if not each.ended.done():
            each.ended.set_result(each.num_tokens)


def main() -> int:
    """Measure and tell."""
    parser = parser_of(__doc__, num_rounds=3)
    parser.add_argument("--requests", type=int, default=8000)
    parser.add_argument("--former", action="store_true", help="also one part at a time, 64 sequences")
    return tell(figures(parser.parse_args()))


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield a figure for each cell."""
    for part_size, answer_tokens in product(PARTS, ANSWERS):
        requests = requests_of(arguments.requests, answer_tokens)
        fed = partial(fed_seconds, requests)
        loops: list[tuple[str, float | None, Callable[[], float]]] = [
            ("the same engine always fed", MIN_RATIO, partial(stage_seconds, requests, part_size, SEQUENCES, None))
        ]
        if arguments.former:
            former = partial(stage_seconds, requests, part_size, 64, 1)
            loops.append(("the same; one part of 64 sequences at a time", None, former))
        for against, bar, loop in loops:
            measured = alternate(fed, loop, arguments.rounds)
            rates = [len(requests) / seconds for seconds in measured.seconds]
            yield Figure(
                part=f"simulated GPU engine, parts of {part_size}, answers of {answer_tokens} tokens",
                against=against,
                value=measured.ratio,
                bar=bar,
                rounds=measured.ratios,
                detail=f"{len(requests)} requests; always fed {rates[0]:.0f} requests/s, ours {rates[1]:.0f}",
            )


def requests_of(num: int, answer_tokens: int) -> list[Request]:
    """Return requests whose answers have half to one and a half times as many tokens as given."""
    draws = random.Random(answer_tokens)
    return [
        Request(
            request_id=f"{number:032x}",
            user_id=f"user-{number // 10}",
            messages=(Message(role="user", content=f"A story with {number} mice, told to a person who likes cats."),),
            num_samples=1,
            temperature=0,
            max_tokens=draws.randint(answer_tokens // 2, answer_tokens + answer_tokens // 2),
            choices=(),
            num_top_tokens=0,
            seed=0,
        )
        for number in range(num)
    ]


def fed_seconds(requests: Sequence[Request]) -> float:
    """Return the seconds of an engine that has all requests from the beginning."""

    async def run() -> float:
        engine, loop = SimulatedEngine(num_sequences=SEQUENCES), asyncio.get_running_loop()
        made = [
            Running(num_left=each.max_tokens, num_tokens=each.max_tokens, ended=loop.create_future(), loop=loop)
            for each in requests
        ]
        start = time.monotonic()
        engine.add(made)
        await asyncio.gather(*(each.ended for each in made))
        engine.shutdown()
        return time.monotonic() - start

    return asyncio.run(run())


def stage_seconds(requests: Sequence[Request], part_size: int, num_sequences: int, max_parts: int | None) -> float:
    """Return the seconds of the actor's loop, from the first part's bytes to the last part's."""
    parts = [
        to_bytes([_prompt(each) for each in requests[start : start + part_size]], Prompt)
        for start in range(0, len(requests), part_size)
    ]

    async def start_engine() -> Any:
        return SimulatedEngine(num_sequences=num_sequences)

    engine = VllmEngine(GeneratorConfig(model="m"), AsyncRunner(start_engine))
    with tempfile.TemporaryDirectory(prefix="hydra_ray-simulated-") as root:
        store = CompletionStore(root=root, name="simulated")
        asyncio.run(engine.answer([_prompt(requests[0])]))  # vLLM is imported
        start = time.monotonic()
        asyncio.run(_answer_parts(engine, store, parts, max_parts or engine.max_parts))
        seconds = time.monotonic() - start
    engine.close()
    return seconds


def _prompt(request: Request) -> Prompt:
    draws = random.Random(request.request_id)
    return Prompt(request=request, token_ids=tuple(draws.randrange(50_000) for _ in range(PROMPT_TOKENS)))


async def _answer_parts(engine: VllmEngine, store: CompletionStore, parts: Sequence[bytes], max_parts: int) -> None:
    room = asyncio.Semaphore(max_parts)

    def keep(bucket: int, answered: Sequence[Completion]) -> None:
        store.write(bucket, "simulated", answered)

    async def answer(bucket: int, content: bytes) -> None:
        async with room:
            prompts = await asyncio.to_thread(lambda: list(from_bytes(content, Prompt)))
            known = await asyncio.to_thread(store.read, bucket, [each.request for each in prompts])
            assert not known
            completions = await engine.answer(prompts, lambda each: keep(bucket, each))
            await asyncio.to_thread(store.merge, bucket, "simulated")
            assert len(await asyncio.to_thread(to_bytes, completions, Completion)) > len(completions)

    async with asyncio.TaskGroup() as tasks:
        for bucket, content in enumerate(parts):
            tasks.create_task(answer(bucket, content))


if __name__ == "__main__":
    sys.exit(main())
