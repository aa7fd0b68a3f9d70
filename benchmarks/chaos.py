"""Fault injection: faults strike at random moments, and the work must end as if nothing had happened.

    PYTHONPATH=tests python benchmarks/chaos.py [--schedules 300] [--kinds "lost key,flipped bit"] [--first 0]

Each schedule is generated from its seed, and kinds of faults take turns: processes and nodes die, disks fill or take no
writes, clocks jump, endpoints reply oddly, change their mind or do not tell what they took, an object store is overrun
or forgets its credentials, the key is lost, bits flip. The disturbed work is repeated until it is done, and compared
with undisturbed work: tables and predictions byte by byte, tables with seconds in their footers row by row, failures
without their number of attempts. What is refused must be refused by name, and doing what the error says must help. Each
request must be paid once, except those in flight when a process died, whose number is reported. The generator is the
fake one, which is fast, or that behind an endpoint; schedules of --vllm use a model, whose probabilities are not
compared: in another batch they differ in the last bits.
Exit status 1 if anything is lost, duplicated, changed, paid needlessly, silent, or over its deadline.
"""

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from fault_cluster import fault_cluster
from fault_files import files_reference, run_files_schedule
from fault_outcomes import Outcome
from fault_runs import make_reference, run_schedule
from fault_schedules import KINDS, Arena, Kind, Schedule, arena_of, kind_of, schedule_of
from fault_server import FaultServer
from fault_summary import line, summary

_CLUSTER_KINDS = tuple(kind for kind in KINDS if arena_of(kind) == Arena.CLUSTER)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the schedules and print their outcomes."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    seeds = range(arguments.first, arguments.first + arguments.schedules)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="chaos-hydra_ray-", ignore_cleanup_errors=True) as folder:
        by_arena = {
            arena: [seed for seed in seeds if arena_of(kind_of(seed, arguments.kinds)) == arena] for arena in Arena
        }

        def arguments_of(arena: Arena) -> tuple[Path, Arena, Sequence[int], Sequence[Kind], float]:
            return Path(folder, arena), arena, by_arena[arena], arguments.kinds, arguments.deadline

        # What needs no cluster runs beside it, in a process of its own; clusters follow each other.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as beside:
            files = beside.submit(_run, *arguments_of(Arena.PROCESS))
            outcomes += _run(*arguments_of(Arena.CLUSTER))
            outcomes += _run(*arguments_of(Arena.ENDPOINT))
            outcomes += files.result()
        models = range(arguments.first, arguments.first + arguments.vllm)
        outcomes += _run(Path(folder, Arena.MODEL), Arena.MODEL, models, _CLUSTER_KINDS, arguments.deadline)
    print(summary(outcomes))
    return int(not all(outcome.is_good for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Work under faults")
    parser.add_argument("--schedules", type=int, default=300, help="how many")
    parser.add_argument(
        "--kinds", type=_kinds, default=KINDS, help=f"which kinds take turns, by commas; of {', '.join(KINDS)}"
    )
    parser.add_argument("--vllm", type=int, default=0, help="how many more with vLLM, a minute or two each")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one; the others follow")
    parser.add_argument("--deadline", type=float, default=180, help="seconds that an attempt may take")
    return parser


def _kinds(typed: str) -> tuple[Kind, ...]:
    """Return the kinds of a list as it is typed.

    Raises:
        ArgumentTypeError: there is no such kind.
    """
    known = {str(kind): kind for kind in KINDS}
    names = [name.strip() for name in typed.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"there is no kind {unknown[0]!r}; expected some of {', '.join(known)}")
    return tuple(known[name] for name in names)


def _run(
    folder: Path, arena: Arena, seeds: Sequence[int], kinds: Sequence[Kind], deadline_seconds: float
) -> list[Outcome]:
    """Run the schedules of some seeds in their arena, printing each outcome."""
    outcomes: list[Outcome] = []

    def tell(schedule: Schedule, run: Callable[[], Outcome]) -> None:
        outcomes.append(judged(schedule, run))
        print(line(outcomes[-1]), flush=True)

    if not seeds:
        return outcomes
    if arena == Arena.PROCESS:
        with files_reference(folder, deadline_seconds) as files:
            for seed in seeds:
                schedule, place = schedule_of(seed, files.reached, kinds), folder / f"seed-{seed}"
                tell(schedule, partial(run_files_schedule, files, schedule, place, deadline_seconds))
        return outcomes
    with fault_cluster() as cluster, FaultServer() if arena == Arena.ENDPOINT else nullcontext() as endpoint:
        reference = make_reference(folder, endpoint, arena)
        for seed in seeds:
            schedule, place = schedule_of(seed, reference.reached, kinds), folder / f"seed-{seed}"
            tell(schedule, partial(run_schedule, cluster, reference, schedule, place, deadline_seconds))
    return outcomes


def judged(schedule: Schedule, run: Callable[[], Outcome]) -> Outcome:
    """Return the outcome of a schedule; an error that nobody expected is a bad one, and ends no other schedule."""
    start = time.monotonic()
    try:
        return run()
    except Exception as error:
        said = "".join(traceback.format_exception(error))[-2000:]
        return Outcome(schedule=schedule, seconds=time.monotonic() - start, problems=(said,))


if __name__ == "__main__":
    sys.exit(main())
