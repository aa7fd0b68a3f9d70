"""Fault injection: faults strike runs at random moments, and the run must end as if nothing had happened.

    PYTHONPATH=tests python benchmarks/chaos.py [--schedules 160] [--api 40] [--vllm 0] [--first 0]

Each schedule is generated from its seed: faults by kind and moment. Its run is resumed until it is finished, and
compared with an undisturbed one: tables and predictions byte by byte, tables with seconds in their footers row by row,
failures without their number of attempts. Each request must be paid once, except those in flight when a process died,
whose number is reported. The generator is the fake one, which is fast; for the schedules of --api it is behind an
endpoint that fails in all the ways that endpoints do, and those of --vllm use a model, whose probabilities are not
compared: in another batch they differ in the last bits.
Exit status 1 if anything is lost, duplicated, changed, paid needlessly, or over its deadline.
"""

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from fault_runs import Outcome, fault_cluster, make_reference, run_schedule
from fault_schedules import Trouble, schedule_of
from fault_server import FaultServer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the schedules and print their outcomes."""
    parser = argparse.ArgumentParser(description="Runs under faults")
    parser.add_argument("--schedules", type=int, default=160, help="how many with the fake generator")
    parser.add_argument("--api", type=int, default=40, help="how many with an endpoint")
    parser.add_argument("--vllm", type=int, default=0, help="how many more with vLLM, a minute or two each")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one; the others follow")
    parser.add_argument("--deadline", type=float, default=180, help="seconds that an attempt may take")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    wanted = {"fake": arguments.schedules, "openai": arguments.api, "vllm": arguments.vllm}
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="hydra_ray-chaos-", ignore_cleanup_errors=True) as folder:
        for engine, number in wanted.items():
            seeds = range(arguments.first, arguments.first + number)
            if seeds:
                outcomes += run_schedules(Path(folder, engine), engine, seeds, arguments.deadline)
    print(summary(outcomes))
    return int(not all(outcome.is_good for outcome in outcomes))


def run_schedules(folder: Path, engine: str, seeds: Sequence[int], deadline_seconds: float) -> list[Outcome]:
    """Run the schedules of some seeds with one kind of generator, printing each outcome."""
    outcomes: list[Outcome] = []
    with fault_cluster() as cluster, FaultServer() if engine == "openai" else nullcontext() as endpoint:
        reference = make_reference(folder, endpoint, engine)
        for seed in seeds:
            schedule = schedule_of(seed, reference.reached)
            outcomes.append(run_schedule(cluster, reference, schedule, folder / f"seed-{seed}", deadline_seconds))
            print(line(outcomes[-1]), flush=True)
    return outcomes


def line(outcome: Outcome) -> str:
    """Return the outcome of one schedule in one line."""
    description = f"{outcome.schedule}; {outcome.num_attempts} attempts, {outcome.seconds:.1f} s"
    if outcome.is_good:
        return f"{description}: as undisturbed"
    found = outcome.difference
    return (
        f"{description}: NOT as undisturbed: {found.num_lost} rows lost, {found.num_duplicate} duplicate, "
        f"{outcome.paid_needlessly} requests paid needlessly, changed: {list(found.changed)}, {list(outcome.problems)}"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes of all schedules in a few lines."""
    kinds = Counter(str(fault) for outcome in outcomes for fault in outcome.struck)
    kinds.update(str(each.schedule.trouble) for each in outcomes if each.schedule.trouble != Trouble.NONE)
    return (
        f"{len(outcomes)} schedules, faults: {', '.join(f'{name} {count}' for name, count in sorted(kinds.items()))}; "
        f"lost rows {sum(each.difference.num_lost for each in outcomes)}, "
        f"duplicate rows {sum(each.difference.num_duplicate for each in outcomes)}; "
        f"requests paid twice {sum(each.paid_in_flight for each in outcomes)} in flight, "
        f"{sum(each.paid_needlessly for each in outcomes)} others; "
        f"longest {max((each.seconds for each in outcomes), default=0):.1f} s; "
        f"{sum(not each.is_good for each in outcomes)} not as undisturbed"
    )


if __name__ == "__main__":
    sys.exit(main())
