"""Peak memory of the users stage on a small and a ten times larger input; it must not grow with the input. And the time
for one user with many records and with twice as many, from the file to the probes' requests; it must grow with them.

    python benchmarks/ingest.py [--megabytes 50 500] [--records 10000]

Each size runs in a process of its own. A bucket is bounded, so the number of buckets grows with the input.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra_ray import storage
from hydra_ray.config import PlantedConfig, RunConfig, check_config
from hydra_ray.generate.engines.fake import fake_tokenizer
from hydra_ray.lamp.planted import write_planted
from hydra_ray.lamp.tasks import task_of
from hydra_ray.lamp.users import ingest
from hydra_ray.rerank.probes import probe_requests, retrieve_records
from hydra_ray.rows import User, arrow_schema, from_table
from hydra_ray.runs.stage import Stage

MEGABYTES_PER_BUCKET = 12.5
NUM_RECORDS = 200
"""Records per user, about as many as in LaMP's longer histories."""
BYTES_PER_RECORD = 135.3
"""Approximate size in the input; the true size is measured and printed."""
MAX_RATIO = 1.2
MAX_TIME_RATIO = 3.0


def main() -> int:
    """Print the figures; exit status 1 if the ratio is above its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs=2, default=(50.0, 500.0), metavar=("SMALL", "LARGE"))
    parser.add_argument("--records", type=int, default=10_000, help="of the one user; then twice as many")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Path(arguments.measure[0]), int(arguments.measure[1]))
        return 0
    small, large = (run(megabytes) for megabytes in arguments.megabytes)
    ratio = large / small
    print(f"ratio of the peaks: {ratio:.3f} (at most {MAX_RATIO})")
    seconds_of_a_user(100)  # imports
    few, many = (seconds_of_a_user(num_records) for num_records in (arguments.records, 2 * arguments.records))
    print(
        f"one user with {arguments.records} and with {2 * arguments.records} records: {few:.2f} s and {many:.2f} s, "
        f"ratio {many / few:.2f} (at most {MAX_TIME_RATIO})"
    )
    return int(ratio > MAX_RATIO or many / few > MAX_TIME_RATIO)


def run(megabytes: float) -> float:
    """Make an input of about this size, ingest it in a fresh process, print its figures and return its peak in MB."""
    with tempfile.TemporaryDirectory(prefix="hydra_ray-ingest-") as folder:
        num_users = max(2, round(megabytes * 1e6 / (NUM_RECORDS * BYTES_PER_RECORD)))
        num_new_users = max(1, num_users // 3)
        sample = PlantedConfig(
            num_train_users=num_users - num_new_users, num_new_users=num_new_users, num_records=NUM_RECORDS
        )
        write_planted(sample, Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).glob("*.json")) / 1e6
        num_buckets = max(1, round(size / MEGABYTES_PER_BUCKET))
        output = subprocess.run(
            [sys.executable, __file__, "--measure", folder, str(num_buckets)], check=True, stdout=subprocess.PIPE
        ).stdout
        figures = json.loads(output)
        print(
            f"{size:6.1f} MB, {num_users} users, {num_buckets:3d} buckets: peak {figures['peak']:.1f} MB, "
            f"{figures['seconds']:.1f} s, {size / figures['seconds']:.1f} MB/s",
            flush=True,
        )
        return figures["peak"]


def seconds_of_a_user(num_records: int) -> float:
    """Return the CPU time of one user with many records: ingested, ranked, and asked for."""
    with tempfile.TemporaryDirectory(prefix="ingest-") as folder:
        sample = PlantedConfig(num_train_users=1, num_new_users=1, num_records=num_records)
        write_planted(sample, Path(folder))
        config = _config(Path(folder))
        stage = Stage(name="users", fingerprint="benchmark", root=str(Path(folder) / "run"), num_buckets=1)
        started = time.process_time()
        ingest(config, stage)
        users = list(from_table(storage.read_part(stage.part("users", 0), arrow_schema(User)), User))
        task = task_of(config.lamp)
        retrieved = [(user, retrieve_records(user, task, config, None)) for user in users]
        num_requests = len(list(probe_requests(retrieved, task, fake_tokenizer(), config)))
        assert num_requests
        return time.process_time() - started


def measure(folder: Path, num_buckets: int) -> None:
    """Ingest the sample in `folder` and print this process's peak memory in MB and the seconds taken, as JSON."""
    started = time.monotonic()
    stage = Stage(name="users", fingerprint="benchmark", root=str(folder / "run"), num_buckets=num_buckets)
    ingest(_config(folder), stage)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"peak": peak, "seconds": time.monotonic() - started}))


def _config(folder: Path) -> RunConfig:
    base = {"base": {"encoder": "unused"}}
    settings = {
        "run": "ingest",
        "storage": {"root": str(folder / "run")},
        "lamp": {"task": "planted", "root": str(folder)},
        "generator": {"model": "unused"},
        "reranker": base,
        "adapter": base,
    }
    return check_config(settings, source="benchmarks/ingest.py")


if __name__ == "__main__":
    sys.exit(main())
