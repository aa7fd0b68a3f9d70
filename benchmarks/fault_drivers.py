"""Drivers of disturbed runs: this process, or others that may be killed."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import fault_points
from fault_cluster import connect
from fault_points import Fault, Point, order

from hydra_ray import cli
from hydra_ray.config import RunConfig
from hydra_ray.stages.run import personalize

Strikes = Sequence[tuple[Point, int, Fault]]
"""Faults to be ordered, each with its point and count."""


class HangError(Exception):
    """Error of an attempt that took longer than its deadline."""


def drive_inside(config: RunConfig, deadline_seconds: float) -> Exception | None:
    """Run the configuration in this process; return its error.

    Raises:
        HangError: it took too long.
    """

    def ring(*_: object) -> None:
        raise HangError(f"an attempt took more than {deadline_seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, deadline_seconds)
    try:
        personalize(config, until="answers")
    except HangError:
        raise
    except Exception as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None


def drive_outside(
    address: str, config: RunConfig, folder: Path, strikes: Strikes, num_drivers: int, deadline_seconds: float
) -> list[int]:
    """Run the configuration by separate drivers at the same time; return their exit statuses.

    Raises:
        HangError: one took too long; it is killed.
    """
    # Not forked: processes forked from one that has loaded Ray give objects the same random ids, which crashes Ray.
    context = multiprocessing.get_context("spawn")
    path = folder / "config.json"
    path.write_text(json.dumps(config.model_dump(mode="json")))  # JSON is YAML
    drivers = [
        context.Process(target=_drive, args=(address, str(path), strikes if n == 0 else [])) for n in range(num_drivers)
    ]
    for driver in drivers:
        driver.start()
    end = time.monotonic() + deadline_seconds
    for driver in drivers:
        driver.join(max(0.0, end - time.monotonic()))
    if late := [driver for driver in drivers if driver.is_alive()]:
        for driver in late:
            driver.kill()
        raise HangError(f"a driver took more than {deadline_seconds:.0f} s")
    return [driver.exitcode if driver.exitcode is not None else -1 for driver in drivers]


def _drive(address: str, config: str, strikes: Strikes) -> None:
    """Run a driver: the command, as it is typed."""
    said = os.open(Path(config).parent / f"driver-{os.getpid()}.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(said, stream)
    for point, count, fault in strikes:
        pid = os.getpid() if fault in (Fault.KILL_DRIVER, Fault.STOP_DRIVER) else 0
        order(Path(config).parent / "faults", point, count, fault, pid)
    fault_points.install(Path(config).parent / "faults")
    connect(address)
    raise SystemExit(cli.main(["run", config, "--until", "answers"]))
