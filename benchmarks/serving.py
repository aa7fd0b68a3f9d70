"""Latency of one request to an exported run: p50 and p95 of `score()` with eight drafts, in this process.

    python benchmarks/serving.py [RUN] [--requests 200]

RUN is a finished run's folder. Without it the demo's users are run first, with a generator that answers by a rule: the
latency does not depend on the drafts' author. Each request has a new query of a user drawn at random, with new drafts
if the task is free text; `first` is a user's first request, which encodes the history, `later` all others.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hydra_ray import Run, load_run, load_scorer, run
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import ServedScorer

NUM_DRAFTS = 8
DEMO = Path(__file__).parents[1] / "jobs" / "configs" / "demo.yaml"


def main() -> None:
    """Export, load, request and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", nargs="?", help="a finished run's folder")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of the encoders")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="hydra_ray-serving-") as folder:
        finished = load_run(arguments.run) if arguments.run else made_below(folder)
        export_run(finished.plan, f"{folder}/export")
        start = time.perf_counter()
        scorer = load_scorer(f"{folder}/export")
        print(f"loading: {time.perf_counter() - start:.1f} s")
        seconds = measure(scorer, finished, arguments.requests)
    for name, values in seconds.items():
        if values:
            p50, p95 = np.percentile(values, [50, 95]) * 1000
            print(f"{name:>5}: {len(values)} requests of {NUM_DRAFTS} drafts, p50 {p50:.1f} ms, p95 {p95:.1f} ms")


def made_below(folder: str) -> Run:
    """Return a finished run of the demo's users with a generator that answers by a rule."""
    overrides = [f"storage.root={folder}/root", "generator.engine=fake", "reranker.base.num_epochs=0"]
    return run(DEMO, [*overrides, "adapter.base.num_epochs=0"])


def measure(scorer: ServedScorer, finished: Run, num_requests: int) -> dict[str, list[float]]:
    """Return the seconds of each request, by whether it was its user's first."""
    users = finished.users().to_pylist()
    chance, seen = random.Random(0), set[str]()
    seconds: dict[str, list[float]] = {"first": [], "later": []}
    for _ in range(num_requests):
        user = chance.choice(users)
        query, drafts = request_of(scorer, user["history"], chance)
        start = time.perf_counter()
        scorer.score(user["user_id"], query, drafts)
        seconds["later" if user["user_id"] in seen else "first"].append(time.perf_counter() - start)
        seen.add(user["user_id"])
    return seconds


def request_of(scorer: ServedScorer, history: list[dict[str, str]], chance: random.Random) -> tuple[str, list[str]]:
    """Return a new query, as long as the user's records, and drafts of an answer."""
    words = " ".join(record["input"] for record in history).split()
    query = " ".join(chance.choices(words, k=max(len(words) // max(len(history), 1), 1)))
    if scorer.task.is_closed:
        return query, chance.choices(scorer.task.labels, k=NUM_DRAFTS)
    return query, list(titles(query, chance))


def titles(query: str, chance: random.Random) -> Iterator[str]:
    """Yield drafts in words of the query."""
    for _ in range(NUM_DRAFTS):
        yield " ".join(chance.choices(query.split(), k=10))


if __name__ == "__main__":
    main()
