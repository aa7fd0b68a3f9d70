"""What it costs a run that every file is checked: digests made when files are written, and compared when they are read.

    python benchmarks/file_checks.py [RUN_FOLDER]

Every table of the run's stages is written and read with and without checks, and every other file is digested. Of these
differences, with as many readings as a run has at most, the share in the seconds of the run is printed; the
exit status is 1 above 3 %. Without an argument the shipped demo is run first.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hydra_ray import storage
from hydra_ray.api import configured
from hydra_ray.runs.run_folder import read_config, recorded_stages
from hydra_ray.runs.stage import Stage
from hydra_ray.stages.run import personalize

MAX_SHARE = 0.03
TABLE_READINGS, FILE_READINGS = 6, 2
"""Number of times that a table and any other file are read, at most: users by probes, both scorers' examples, drafts,
answers and the report; a base by features and an export."""
REPETITIONS = 3


def main() -> int:
    """Print the share; exit status 1 if it is too high."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run_folder", nargs="?")
    given = arguments.parse_args().run_folder
    with tempfile.TemporaryDirectory(prefix="hydra_ray-checks-") as folder:
        run_folder = given or personalize(configured("demo", [f"storage.root={folder}/root"])).run_folder
        stages = list(recorded_stages(run_folder, read_config(run_folder)).values())
        seconds = sum(stage.manifest()["seconds"] for stage in stages if stage.is_complete())
        costs = [cost_of(path, Path(folder)) for stage in stages for path in files_of(stage)]
    written, read, listed = (sum(each) for each in zip(*costs, strict=True))
    extra = written + read + listed
    share = extra / seconds
    print(f"{len(costs)} files of {len(stages)} stages; the run took {seconds:.1f} s")
    print(f"checks took {extra:.3f} s: written {written:.3f}, read {read:.3f}, listed {listed:.3f}")
    print(f"{share:.2%} of the run (at most {MAX_SHARE:.0%})")
    return 0 if share <= MAX_SHARE else 1


def files_of(stage: Stage) -> Iterator[Path]:
    """Yield the files of a stage."""
    yield from (Path(stage.folder, name) for name in storage.list_tree(stage.folder))


def cost_of(path: Path, folder: Path) -> tuple[float, float, float]:
    """Return the seconds that checks add when a file is written, read and listed."""
    listed = best(lambda: storage.content_digest(str(path)))
    if path.suffix != ".parquet":
        return 0.0, FILE_READINGS * listed, listed
    table, plain, sealed = pq.read_table(path), folder / "plain.parquet", folder / "sealed.parquet"
    written = best(lambda: storage.write_part(str(sealed), table)) - best(lambda: write_plainly(table, plain))
    read = best(lambda: storage.read_part(str(path))) - best(lambda: read_plainly(path))
    return max(written, 0.0), TABLE_READINGS * max(read, 0.0), listed


def write_plainly(table: pa.Table, path: Path) -> None:
    """Write a part as `storage.write_part` does, without digests."""
    with storage.open_output(str(path)) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_plainly(path: Path) -> pa.Table:
    """Read a part with the checksums of its pages alone."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


def best(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes, the shortest of several times."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(timed() for _ in range(REPETITIONS))


if __name__ == "__main__":
    sys.exit(main())
