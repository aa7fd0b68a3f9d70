"""Life cycle of heads: fit, store, score, look up, forget and add users, each step timed.

    python benchmarks/lifecycle.py [--users 100000] [--forgotten 100] [--added 1000]

Users are simulated, with planted preferences; projecting them is not timed. All steps are those of a run: Ray Tune fans
the fitting out, a head kind is chosen for each user on held-out history, every candidate is scored.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain

import psutil
from heads import workers
from memory import watched
from simulated_heads import BUCKET_KEY, LINEAGE, Shape, ids_by_bucket, prior_of, write_bucket

from hydra_ray.config import HeadsConfig, PlacementConfig
from hydra_ray.engine.ray_connection import start_ray
from hydra_ray.forget.removal import forget_users
from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.fit import fit_heads
from hydra_ray.scorer.heads.store import HeadStore, prior_folder

MAX_SECONDS = 600.0
SECONDS_BETWEEN_SAMPLES = 0.5
NUM_SHARDS = 4
"""Number of trials of one head kind."""


def main() -> int:
    """Print the time of each step; exit status 1 if a step failed, or all took too long."""
    arguments = parse()
    shape = Shape(num_examples=arguments.examples, num_candidates=arguments.candidates, rank=arguments.rank)
    with tempfile.TemporaryDirectory(prefix="hydra_ray-lifecycle-", dir=arguments.root) as root:
        num_buckets = max(1, round(arguments.users / arguments.users_per_bucket))
        stage = Stage(name="adapter.heads", fingerprint=f"{1:016x}", root=root, num_buckets=num_buckets)
        ids = simulate(stage, ids_by_bucket(arguments.users, num_buckets), shape)
        prior_of(shape).write(prior_folder(stage.folder, 0), LINEAGE.head_prior)
        with watched(psutil.Process(), SECONDS_BETWEEN_SAMPLES) as samples:
            seconds, is_good = live(stage, ids, arguments, shape)
    print(f"{seconds:.1f} s in all (at most {MAX_SECONDS:.0f}), peak of all processes {max(samples) / 1e9:.2f} GB")
    return 0 if is_good and seconds <= MAX_SECONDS else 1


def simulate(stage: Stage, ids: Sequence[Sequence[str]], shape: Shape) -> list[str]:
    """Write the projected features of users by bucket; return all their ids."""
    with workers(2) as pool:
        list(
            pool.map(partial(write_bucket, stage, shape=shape), stage.buckets, [ids[place] for place in stage.buckets])
        )
    return list(chain.from_iterable(ids))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--forgotten", type=int, default=100)
    parser.add_argument("--added", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=40, help="candidates of a user")
    parser.add_argument("--candidates", type=int, default=4, help="candidates of a query")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--users-per-bucket", type=int, default=2500)
    parser.add_argument("--root", help="folder for the tables, which are removed; a temporary one if not given")
    return parser.parse_args()


def live(stage: Stage, known: Sequence[str], arguments: argparse.Namespace, shape: Shape) -> tuple[float, bool]:
    """Run every step; return the seconds of all, and whether each succeeded."""
    import ray

    start_ray()
    seconds: list[float] = []
    gone = known[:: max(1, len(known) // arguments.forgotten)][: arguments.forgotten]
    with step(f"{len(known)} users: fitted, stored and scored", seconds):
        counters = fit(stage, stage, arguments.rank)
    print(", ".join(f"{name} {count:.0f}" for name, count in sorted(counters.items())))
    with step(f"{arguments.added} users: looked up", seconds):
        is_found = len(store_of(stage).read_heads_of(known[-arguments.added :])) == arguments.added
    with step(f"{len(gone)} users: forgotten", seconds):
        outcomes = forget_users(stage.root, gone)
    is_forgotten = all(each.is_removed_now for each in outcomes) and not len(store_of(stage).read_heads_of(gone))
    ids = ids_by_bucket(arguments.added, stage.num_buckets, first=arguments.users)
    places = tuple(place for place, own in enumerate(ids) if own)
    later = replace(stage, fingerprint=f"{2:016x}", only_buckets=places)
    added = simulate(later, ids, shape)
    with step(f"{len(added)} users: added, stored and scored", seconds):
        fit(later, stage, arguments.rank)
    is_added = len(store_of(later).read_heads_of(added)) == len(added)
    ray.shutdown()
    return sum(seconds), is_found and is_forgotten and is_added


def fit(stage: Stage, head_prior: Stage, rank: int) -> dict[str, float]:
    """Fit heads and scores of the users of a stage, with the counters of a run."""
    config = HeadsConfig(kinds=("shared", "lowrank"), ranks=(rank,), num_shards=NUM_SHARDS)
    counters = fit_heads(stage, stage, head_prior, config, PlacementConfig(), ["base"], has_soft_targets=False)
    stage.complete(0.0, counters)
    return counters


def store_of(stage: Stage) -> HeadStore:
    """Return the heads of a stage."""
    return HeadStore(stage=stage, fold=0, bucket_key=BUCKET_KEY, lineage=LINEAGE)


@contextmanager
def step(title: str, seconds: list[float]) -> Iterator[None]:
    """Print the time of the block, and add it to `seconds`."""
    start = time.monotonic()
    yield
    seconds.append(time.monotonic() - start)
    print(f"{title} in {seconds[-1]:.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
