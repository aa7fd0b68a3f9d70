"""Time and memory of the demo: a first run into a new folder, then the same run again.

    python benchmarks/demo.py [--seed N]

Memory is the proportional set size of the whole process tree (shared pages counted once), sampled every two seconds.
The bars are those of a two-core machine without a GPU: 6 minutes (8 if models must be converted first) and 8 GB for the
first run, 45 seconds and no computed stage for the second.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from memory import watched

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "demo.yaml"
MAX_SECONDS, MAX_SECONDS_AGAIN, MAX_GIGABYTES = 360, 45, 8.0
SECONDS_BETWEEN_SAMPLES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Time and memory of one run of the demo."""

    seconds: float
    peak_gigabytes: float


def main() -> int:
    """Run twice and print; exit status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="Time and memory of the demo")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the sample and the generator")
    seed = parser.parse_args().seed
    with tempfile.TemporaryDirectory() as root:
        first = run(root, seed)
        before = committed(root)
        again = run(root, seed)
        is_untouched = committed(root) == before
    print(f"first run (seed {seed}): {first.seconds:.0f} s (at most {MAX_SECONDS}), "
          f"peak {first.peak_gigabytes:.2f} GB (at most {MAX_GIGABYTES})")  # fmt: skip
    print(f"second run: {again.seconds:.1f} s (at most {MAX_SECONDS_AGAIN}), no stage computed again: {is_untouched}; "
          f"ratio of times {again.seconds / first.seconds:.3f}")  # fmt: skip
    is_good = first.seconds <= MAX_SECONDS and first.peak_gigabytes <= MAX_GIGABYTES
    return 0 if is_good and again.seconds <= MAX_SECONDS_AGAIN and is_untouched else 1


def run(root: str, seed: int) -> Run:
    """Run the demo into `root` as a user would, sampling its memory."""
    overrides = [f"storage.root={root}", f"lamp.planted.seed={seed}", f"generator.seed={seed}"]
    command = [sys.executable, "-m", "hydra_ray.cli", "run", str(CONFIG), *overrides]
    start = time.monotonic()
    with (
        subprocess.Popen(command) as process,
        watched(psutil.Process(process.pid), SECONDS_BETWEEN_SAMPLES) as samples,
    ):
        process.wait()
    if process.returncode:
        raise SystemExit(f"the demo failed with exit status {process.returncode}")
    return Run(seconds=time.monotonic() - start, peak_gigabytes=max(samples) / (1 << 30))


def committed(root: str) -> dict[str, int]:
    """Return the modification time of every file of every stage."""
    return {str(path): path.stat().st_mtime_ns for path in Path(root, "stages").rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
