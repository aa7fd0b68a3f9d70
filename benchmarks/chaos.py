"""Do runs survive what happens to them? Faults strike at random moments, and the run must end as if nothing had.

    PYTHONPATH=tests python benchmarks/chaos.py [--schedules 160] [--api 40] [--vllm 0] [--first 0]

Each schedule follows from its seed: faults by kind and moment. Its run is resumed until it is finished, and compared
with an undisturbed one: tables and predictions byte by byte, tables whose footers tell seconds row by row, failures
without how often a call was repeated. Each request must be paid once, except those that were in flight when something
died, whose number is told. The generator is the fake one, which is fast; for the schedules of --api it is behind an
endpoint that fails in all the ways that endpoints do, and those of --vllm ask a model, whose probabilities are left out
of the comparison: in another batch they differ in the last bits.
Exit status 1 where anything is lost, doubled, changed, paid needlessly, or over its deadline.
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
    """Run the schedules, print what became of them."""
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
    """Run the schedules of some seeds with one kind of generator, telling of each."""
    outcomes: list[Outcome] = []
    with fault_cluster() as cluster, FaultServer() if engine == "openai" else nullcontext() as endpoint:
        reference = make_reference(folder, endpoint, engine)
        for seed in seeds:
            schedule = schedule_of(seed, reference.reached)
            outcomes.append(run_schedule(cluster, reference, schedule, folder / f"seed-{seed}", deadline_seconds))
            print(line(outcomes[-1]), flush=True)
    return outcomes


def line(outcome: Outcome) -> str:
    """What became of one schedule."""
    told = f"{outcome.schedule}; {outcome.num_attempts} attempts, {outcome.seconds:.1f} s"
    if outcome.is_good:
        return f"{told}: as undisturbed"
    found = outcome.difference
    return (
        f"{told}: NOT as undisturbed: {found.num_lost} rows lost, {found.num_duplicate} duplicate, "
        f"{outcome.paid_needlessly} requests paid needlessly, changed: {list(found.changed)}, {list(outcome.problems)}"
    )


def summary(outcomes: Sequence[Outcome]) -> str:
    """All of them in a few lines."""
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
