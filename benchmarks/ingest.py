"""The users stage against json.load and pyarrow; its peak memory, which must not grow with the input; and the time for
one user with many records and with twice as many, from the file to the probes' requests, which must grow with them.

    python benchmarks/ingest.py [--megabytes 50 500] [--records 10000]

Each measurement is a process of its own. The stage reads and checks LaMP's files, divides users into buckets, joins
their targets and writes one table a bucket, sorted and sealed. The rival loads the same files with json.load, joins the
targets, makes one table with pyarrow's `Table.from_pylist` and writes it, sorted, with the same compression: it checks
nothing and divides nothing. A bucket is bounded, so the number of buckets grows with the input.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from harness import Figure, Measured, alternate, parser_of, tell

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
MIN_SPEEDUP, MAX_SHARE, MAX_GROWTH, MAX_TIME_RATIO = 1.5, 0.1, 1.2, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Input files of one size."""

    folder: Path
    megabytes: float

    @property
    def num_buckets(self) -> int:
        """Return the number of buckets that it is divided into."""
        return max(1, round(self.megabytes / MEGABYTES_PER_BUCKET))


def main() -> int:
    """Print the figures; exit status 1 if one is above its bar."""
    parser = parser_of(__doc__, num_rounds=3)
    parser.add_argument("--megabytes", type=float, nargs=2, default=(50.0, 500.0), metavar=("SMALL", "LARGE"))
    parser.add_argument("--records", type=int, default=10_000, help="of the one user; then twice as many")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "FOLDER", "BUCKETS"), help="measure one side alone")
    arguments = parser.parse_args()
    if arguments.measure:
        side, folder, num_buckets = arguments.measure
        measure({"ours": ours, "rival": rival}[side], Path(folder), int(num_buckets))
        return 0
    return tell(figures(*arguments.megabytes, arguments.records, arguments.rounds))


def figures(small: float, large: float, num_records: int, num_rounds: int) -> Iterator[Figure]:
    """Yield all figures."""
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hydra_ray-ingest-") as folder:
        given = make_input(Path(folder), large)
        measured = alternate(partial(run, "rival", given, peaks), partial(run, "ours", given, peaks), num_rounds)
    yield from _against_rival(measured, peaks, given)
    largest = peaks["ours"]
    with tempfile.TemporaryDirectory(prefix="hydra_ray-ingest-") as folder:
        run("ours", make_input(Path(folder), small), peaks)
    yield Figure(
        part="ingest, peak memory",
        against=f"of {small:.0f} MB",
        value=largest / peaks["ours"],
        bound="at most",
        bar=MAX_GROWTH,
        detail=f"{large:.0f} MB {largest:.0f} MB, {small:.0f} MB {peaks['ours']:.0f} MB",
    )
    seconds_of_a_user(100)  # imports
    few, many = (seconds_of_a_user(number) for number in (num_records, 2 * num_records))
    yield Figure(
        part="ingest to requests of one user with twice the records",
        against=f"with {num_records:,}",
        value=many / few,
        bound="at most",
        bar=MAX_TIME_RATIO,
        detail=f"{many:.2f} CPU s and {few:.2f} CPU s",
    )


def _against_rival(measured: Measured, peaks: dict[str, float], given: Input) -> Iterator[Figure]:
    theirs, own = measured.seconds
    part, against = f"ingest of {given.megabytes:.0f} MB", "json.load and pyarrow"
    yield Figure(
        part=part,
        against=against,
        value=measured.ratio,
        bar=MIN_SPEEDUP,
        rounds=measured.ratios,
        detail=f"CPU seconds {theirs:.1f} and ours {own:.1f} in {given.num_buckets} buckets",
    )
    yield Figure(
        part=part,
        against=f"{against}, peak memory",
        value=peaks["ours"] / peaks["rival"],
        bound="at most",
        bar=MAX_SHARE,
        detail=f"{peaks['rival']:,.0f} MB and ours {peaks['ours']:,.0f} MB",
    )


def make_input(folder: Path, megabytes: float) -> Input:
    """Write an input of about this size."""
    num_users = max(2, round(megabytes * 1e6 / (NUM_RECORDS * BYTES_PER_RECORD)))
    num_new = max(1, num_users // 3)
    write_planted(
        PlantedConfig(num_train_users=num_users - num_new, num_new_users=num_new, num_records=NUM_RECORDS), folder
    )
    return Input(folder=folder, megabytes=sum(path.stat().st_size for path in folder.glob("*.json")) / 1e6)


def run(side: str, given: Input, peaks: dict[str, float]) -> float:
    """Return the CPU seconds of a side in a fresh process, and note its peak memory in MB."""
    command = [sys.executable, __file__, "--measure", side, str(given.folder), str(given.num_buckets)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    peaks[side] = found["peak"]
    return found["seconds"]


def measure(side: Callable[[Path, int], None], folder: Path, num_buckets: int) -> None:
    """Run a side in this process and print its peak memory in MB and its CPU seconds, without imports, as JSON."""
    started = time.process_time()
    side(folder, num_buckets)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps({"peak": peak, "seconds": seconds}))


def ours(folder: Path, num_buckets: int) -> None:
    """Run the users stage."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        ingest(_config(folder), Stage(name="users", fingerprint="benchmark", root=root, num_buckets=num_buckets))


def rival(folder: Path, _: int) -> None:
    """Load all, join, make one table and write it."""
    rows: list[dict[str, Any]] = []
    for split, is_new in (("train", False), ("dev", True)):
        with (folder / f"{split}_questions.json").open() as file:
            samples = json.load(file)
        with (folder / f"{split}_outputs.json").open() as file:
            targets = {gold["id"]: gold["output"] for gold in json.load(file)["golds"]}
        rows += [
            {
                "user_id": f"{split}:{sample['id']}",
                "is_new": is_new,
                "fold": None,
                "history": [
                    {"record_id": record["id"], "input": record["description"], "output": record["tag"], "date": None}
                    for record in sample["profile"]
                ],
                "queries": [{"query_id": sample["id"], "input": sample["input"], "target": targets.get(sample["id"])}],
            }
            for sample in samples
        ]
    rows.sort(key=lambda row: row["user_id"])
    table = pa.Table.from_pylist(rows, schema=arrow_schema(User))
    with tempfile.TemporaryDirectory(dir=folder) as out:
        pq.write_table(table, Path(out, "users.parquet"), compression="zstd")


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
