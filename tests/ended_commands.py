"""Commands that are ended from outside while they run."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What became of a command that was sent a signal."""

    status: int
    said: str
    """On standard error after the signal."""
    workers: list[psutil.Process]
    """The processes below it when the signal came."""


def end_when(told: Sequence[str], arguments: Sequence[str], number: signal.Signals) -> Ended:
    """Run `hydra-ray` with `arguments`, and send it a signal once it prints a line with everything in `told`."""
    command = [sys.executable, "-m", "hydra_ray.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        line = next((line for line in process.stderr if all(each in line for each in told)), None)
        assert line is not None, f"no line had {told}"
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        said = process.stderr.read()
    return Ended(status=process.returncode, said=said, workers=workers)
