"""Latency and memory of requests to an exported run, in this process.

    python benchmarks/serving.py [RUN] [--requests 400] [--threads 2]

RUN is a finished run's folder. Without it the demo's users are run first, with a generator that answers by a rule: what
is measured does not depend on the drafts' author. A request is `choose()` with a new query and eight new drafts of a
user drawn at random; `first` is a user's first one, which encodes the history, `later` all others. Then 100 users ask
at once, by as many threads, and what this process takes of memory is compared: once a number of requests was answered,
and after five times as many.
"""

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from harness import Figure, tell

from hydra_ray import Run, load_run, load_scorer, run
from hydra_ray.serving import encoding
from hydra_ray.serving.export import export_run
from hydra_ray.serving.scorer import ServedScorer

NUM_DRAFTS, NUM_USERS = 8, 100
KEPT_TEXTS = 2000
"""Number of texts whose vectors are kept while memory is measured, so that the cache is full from the beginning."""
MAX_MILLISECONDS = 25.0
MAX_GROWTH = 1.02
"""Most memory after five times as many requests, in multiples of that before."""
DEMO = Path(__file__).parents[1] / "jobs" / "configs" / "demo.yaml"


def main() -> int:
    """Export, load, request and print; exit status 1 if a figure is below its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", nargs="?", help="a finished run's folder")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2, help="of the encoders")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="hydra_ray-serving-") as folder:
        finished = load_run(given.run) if given.run else made_below(folder)
        export_run(finished.plan, f"{folder}/export")
        start = time.perf_counter()
        asking = Asking(load_scorer(f"{folder}/export"), finished)
        print(f"loading: {time.perf_counter() - start:.1f} s")
        return tell([*latency(asking, given.requests, given.threads), growth(asking, given.requests)])


def made_below(folder: str) -> Run:
    """Return a finished run of the demo's users with a generator that answers by a rule."""
    overrides = [f"storage.root={folder}/root", "generator.engine=fake", "reranker.base.num_epochs=0"]
    return run(DEMO, [*overrides, "adapter.base.num_epochs=0"])


class Asking:
    """Requests of a run's users to its export."""

    def __init__(self, scorer: ServedScorer, finished: Run) -> None:
        """Take the users of a finished run."""
        self._scorer, self._users = scorer, finished.users().to_pylist()

    def ask(self, chance: random.Random) -> tuple[str, float]:
        """Ask once; return the user and the seconds it took."""
        user = chance.choice(self._users)
        query, drafts = self._request(user["history"], chance)
        start = time.perf_counter()
        self._scorer.choose(user["user_id"], query, drafts)
        return user["user_id"], time.perf_counter() - start

    def _request(self, history: list[dict[str, str]], chance: random.Random) -> tuple[str, list[str]]:
        """Return a new query, as long as the user's records, and drafts of an answer."""
        words = " ".join(record["input"] for record in history).split()
        query = " ".join(chance.choices(words, k=max(len(words) // max(len(history), 1), 1)))
        if self._scorer.task.is_closed:
            return query, chance.choices(self._scorer.task.labels, k=NUM_DRAFTS)
        return query, list(titles(query, chance))


def titles(query: str, chance: random.Random) -> Iterator[str]:
    """Yield drafts in words of the query."""
    for _ in range(NUM_DRAFTS):
        yield " ".join(chance.choices(query.split(), k=10))


def latency(asking: Asking, num_requests: int, num_threads: int) -> Iterator[Figure]:
    """Yield the 95th percentile of one request after another, of users' first and of all later ones."""
    chance, seen = random.Random(0), set[str]()
    taken: dict[str, list[float]] = {"first": [], "later": []}
    for _ in range(num_requests):
        user_id, seconds = asking.ask(chance)
        taken["later" if user_id in seen else "first"].append(seconds)
        seen.add(user_id)
    for name, seconds in taken.items():
        if seconds:
            p50, p95 = np.percentile(seconds, [50, 95]) * 1000
            yield Figure(
                part=f"serving, choose, {name} requests",
                against="95th percentile",
                value=float(p95),
                unit="ms",
                bound="at most",
                bar=MAX_MILLISECONDS if name == "later" else None,
                detail=f"{len(seconds)} requests of {NUM_DRAFTS} drafts, {num_threads} threads, p50 {p50:.1f} ms",
            )


def growth(asking: Asking, num_requests: int) -> Figure:
    """Return how much memory five times as many requests of 100 users at once take."""
    with ThreadPoolExecutor(NUM_USERS) as pool:
        encoding.MAX_KEPT_TEXTS = KEPT_TEXTS
        list(pool.map(asking.ask, map(random.Random, range(max(num_requests, KEPT_TEXTS // NUM_DRAFTS)))))
        before = resident_bytes()
        list(pool.map(asking.ask, map(random.Random, range(num_requests, 6 * num_requests))))
        after = resident_bytes()
    return Figure(
        part="serving, memory",
        against="before five times as many requests",
        value=after / before,
        bound="at most",
        bar=MAX_GROWTH,
        detail=f"{NUM_USERS} users at once: {before / 2**20:.0f} MiB and {after / 2**20:.0f} MiB",
    )


def resident_bytes() -> int:
    """Return what this process takes of memory."""
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    sys.exit(main())
