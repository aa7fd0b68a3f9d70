"""Time and memory of the demo, and where its time goes, stage by stage.

    python benchmarks/demo.py [--seed N]

The demo of a seed runs into a new folder as a user starts it, and then, in the same process and with the Ray, the
workers and the models that are there by then, that of the next seed: the first one's additional time is start-up. Then
the next seed's stages are made again from the generator's stored answers, without Ray, part after part in a process
that has imported and loaded everything: the stages' own work. A stage's generator seconds are those that the copies of
the generator spent on its requests. What is left of the next seed's time is what Ray and the stages take beside their
work. Last, the finished first run is run again.

Memory is the proportional set size of the whole process tree (shared pages counted once), sampled every two seconds.
The bars are those of a two-core machine without a GPU whose models have been converted before: 60 seconds beside the
generator's, and 8 GB, for the first run; a fifth of the time beside the stages' own work for the next; 45 seconds and
no computed stage for the repeated one.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from harness import Figure, tell
from memory import watched

from hydra_ray.runs.root import STORES
from hydra_ray.runs.stage import read_manifest
from hydra_ray.stages.definition import definitions
from hydra_ray.storage.listings import MANIFEST

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "demo.yaml"
TESTS = Path(__file__).parent.parent / "tests"
SECONDS_BETWEEN_SAMPLES = 2.0
RUNS = """
import sys, time
start = time.monotonic()
from hydra_ray import run
config, *runs = sys.argv[1:]
for settings in runs:
    run(config, settings.split())
    print("SECONDS", time.monotonic() - start, flush=True)
    start = time.monotonic()
"""
"""Program that runs a configuration with each of several lists of settings, and prints the seconds of each."""
WITHOUT_RAY = f"""
import sys
sys.path.append({str(TESTS)!r})
import in_process, pytest
in_process.install(pytest.MonkeyPatch())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of one run. Key: name."""

    name: str
    seconds: float
    generator_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of the demo."""

    seconds: float
    stages: tuple[Stage, ...]

    @property
    def generator_seconds(self) -> float:
        """Seconds that the generator spent on requests."""
        return sum(stage.generator_seconds for stage in self.stages)


def main() -> int:
    """Run and print; exit status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the sample and the generator")
    return tell(figures(parser.parse_args().seed))


def figures(seed: int) -> Iterator[Figure]:
    """Measure; print the table of stages, and yield the figures."""
    with tempfile.TemporaryDirectory() as folder:
        roots = [f"{folder}/first", f"{folder}/next"]
        (first, following), peak_gigabytes = run_demos(RUNS, roots, [seed, seed + 1])
        copies = [copy_of_answers(roots[1], f"{folder}/{name}") for name in ("loading", "loaded")]
        (_, own), _ = run_demos(WITHOUT_RAY + RUNS, copies, [seed + 1, seed + 1])
        before = committed(roots[0])
        (again,), _ = run_demos(RUNS, roots[:1], [seed])
        assert committed(roots[0]) == before, "a finished run computed again"
    for name, *seconds in table(first, following, own):
        print(f"{name:>20}", *(f"{each:>10}" for each in seconds))
    yield Figure(
        part="`make demo`, warm models, new seed",
        against="the generator's seconds in the same run",
        value=first.seconds - first.generator_seconds,
        unit="s more",
        bound="at most",
        bar=60,
        detail=f"seed {seed}, {first.seconds:.0f} s, of which the generator {first.generator_seconds:.0f} s",
    )
    beside = following.seconds - following.generator_seconds - own.seconds
    yield Figure(
        part="Ray and stages beside the stages' own work, demo, after start-up",
        against="wall time",
        value=beside / following.seconds,
        unit="of it",
        bound="at most",
        bar=0.2,
        detail=f"{following.seconds:.0f} s, of which the generator {following.generator_seconds:.0f} s, own work "
        f"{own.seconds:.0f} s, beside them {beside:.0f} s",
    )
    yield Figure(
        part="the finished demo again",
        against="-",
        value=again.seconds,
        unit="s",
        bound="at most",
        bar=45,
        detail="no stage computed",
    )
    yield Figure(
        part="memory of the demo, all processes",
        against="-",
        value=peak_gigabytes,
        unit="GB",
        bound="at most",
        bar=8,
        detail="proportional set size",
    )


def run_demos(program: str, roots: Sequence[str], seeds: Sequence[int]) -> tuple[list[Run], float]:
    """Run the demo with each seed into the root beside it, by one process; return the runs and its peak memory in
    gigabytes."""
    settings = [
        f"storage.root={root} lamp.planted.seed={seed} generator.seed={seed}"
        for root, seed in zip(roots, seeds, strict=True)
    ]
    with (
        subprocess.Popen(
            [sys.executable, "-c", program, str(CONFIG), *settings], stdout=subprocess.PIPE, text=True
        ) as process,
        watched(psutil.Process(process.pid), SECONDS_BETWEEN_SAMPLES) as samples,
    ):
        printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the demo failed with exit status {process.returncode}")
    # Workers print to the same stream.
    told = [line.split()[1] for line in printed.splitlines() if line.startswith("SECONDS ")]
    runs = [Run(seconds=float(seconds), stages=stages_of(root)) for seconds, root in zip(told, roots, strict=True)]
    return runs, max(samples) / (1 << 30)


def stages_of(root: str) -> tuple[Stage, ...]:
    """Return the stages of the only run in `root`, in their order."""
    manifests = [read_manifest(str(path)) for path in Path(root, "stages").rglob(MANIFEST)]
    found = {each["stage"]: each for each in manifests}
    return tuple(
        Stage(
            name=each.name,
            seconds=found[each.name]["seconds"],
            generator_seconds=found[each.name]["counters"].get("generator_seconds", 0.0),
        )
        for each in definitions()
        if each.name in found
    )


def copy_of_answers(root: str, copy: str) -> str:
    """Return a root that has nothing but the generator's answers in another one."""
    shutil.copytree(f"{root}/{STORES}", f"{copy}/{STORES}")
    return copy


def table(first: Run, following: Run, own: Run) -> Iterator[tuple[str, ...]]:
    """Yield the lines of seconds by stage: the first run's, and the next one's by what they were spent on."""
    yield "stage", "first", "next", "generator", "own work", "beside"
    works = {stage.name: stage.seconds for stage in own.stages}
    for before, stage in zip(first.stages, following.stages, strict=True):
        yield stage.name, *shown(before.seconds, stage.seconds, stage.generator_seconds, works[stage.name])
    stages = [sum(stage.seconds for stage in each.stages) for each in (first, following, own)]
    elsewhere = [each.seconds - total for each, total in zip((first, following, own), stages, strict=True)]
    yield "between stages", *shown(elsewhere[0], elsewhere[1], 0.0, elsewhere[2])
    yield "all", *shown(first.seconds, following.seconds, following.generator_seconds, own.seconds)


def shown(first: float, following: float, generator: float, own: float) -> tuple[str, ...]:
    """Return the seconds of a line, with what is left of the next run's."""
    return tuple(f"{each:.1f}" for each in (first, following, generator, own, following - generator - own))


def committed(root: str) -> dict[str, int]:
    """Return the modification time of every file of every stage."""
    return {str(path): path.stat().st_mtime_ns for path in Path(root, "stages").rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
