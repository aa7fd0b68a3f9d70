"""Exactly-once benchmark of sweeps: every stage is computed once, even if the sweep is killed half-way.

    python benchmarks/sweep.py [--config FILE] [--root FOLDER] [section.key=value ...]

Starts the sweep (the shipped one has 24 trials; about an hour on two cores, most of it the generator's), kills it
without warning when half of its trials have ended, starts it again, and counts how often each stage was computed in
both attempts together. Exit status 1 if a stage was computed twice or not at all, or a trial has no result.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from hydra_ray.sweep.config import Sweep, load_sweep
from hydra_ray.sweep.runner import forecast, ledger_of, sweep_folder

CONFIG = Path(__file__).parent.parent / "jobs" / "configs" / "sweep.yaml"


def main() -> int:
    """Start, kill, restart and count."""
    parser = argparse.ArgumentParser(description="Exactly-once benchmark of sweeps")
    parser.add_argument("--config", default=str(CONFIG), help="a sweep over a grid or of random points")
    parser.add_argument("--root", default="outputs", help="storage.root of the trials; none of them may be there yet")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    settings = [f"storage.root={Path(arguments.root).resolve()}", *arguments.overrides]
    sweep = load_sweep(arguments.config, settings)
    known = forecast(sweep)
    print("\n".join(known.lines), flush=True)
    command = [sys.executable, "-m", "hydra_ray.cli", "sweep", arguments.config, *settings]
    assert known.trials is not None, "a search that chooses as it goes tells no trials beforehand"
    wanted = {(stage.name, stage.fingerprint) for trial in known.trials for stage in trial.stages}
    _kill_half_way(command, len(known.trials) // 2)
    print(f"killed; {sum(ledger_of(sweep).counts().values())} stages had been computed", flush=True)
    subprocess.run(command, check=True)
    return _verdict(sweep, wanted, len(known.trials))


def _kill_half_way(command: Sequence[str], num_trials: int) -> None:
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if re.search(rf"trial {num_trials} of ", line):
                os.kill(process.pid, signal.SIGKILL)
                return


def _verdict(sweep: Sweep, wanted: set[tuple[str, str]], num_trials: int) -> int:
    counts = ledger_of(sweep).counts()
    errors = pq.read_table(f"{sweep_folder(sweep)}/results.parquet")["error"]
    twice = sum(count > 1 for count in counts.values())
    missing = len(wanted - set(counts))
    num_judged = errors.null_count
    print(f"{len(counts)} stages computed in two attempts, {twice} of them more than once, {missing} not at all")
    print(f"{num_judged} of {num_trials} trials have a result; page: {sweep_folder(sweep)}/sweep.html")
    return int(bool(twice or missing or num_judged != num_trials))


if __name__ == "__main__":
    sys.exit(main())
