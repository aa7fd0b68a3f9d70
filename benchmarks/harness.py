"""What the benchmarks share: sides that take turns, figures with their bars, and results that a machine can read.

A script measures with `alternate`, which lets its sides take turns, and gives `tell` its `Figure`s: each is printed in
one line for people and in one that begins with RESULT for `bench.py`, which keeps it and writes RESULTS.md. What other
programs took of the processor meanwhile is measured, and kept beside the figure.
"""

import argparse
import contextlib
import json
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

MARK = "RESULT "
"""Beginning of the lines for machines."""
ROUNDS = 5
SHARED_CORES = 0.2
"""Cores that other programs take, from which on a machine counts as shared."""

Bound = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure and its bar. Key: (part, against)."""

    part: str
    against: str
    value: float
    unit: str = "times"
    bound: Bound = "at least"
    bar: float | None = None
    """None where there is none, and the figure is told."""
    rounds: Sequence[float] = ()
    """Figures of all rounds, of which `value` is the median."""
    detail: str = ""
    """What was measured, with its sizes and the figures of both sides."""

    @property
    def is_reached(self) -> bool:
        """Return whether the figure is as good as its bar."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.bound == "at least" else self.value <= self.bar

    @property
    def text(self) -> str:
        """Return the figure in one line."""
        bar = "" if self.bar is None else f" ({self.bound} {number(self.bar)})"
        rounds = f"; rounds {', '.join(map(number, self.rounds))}" if len(self.rounds) > 1 else ""
        return f"{self.part}, {self.against}: {self.detail}: {number(self.value)} {self.unit}{bar}{rounds}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Times of the sides of a comparison, one of each for every round."""

    first: Sequence[float]
    second: Sequence[float]

    @property
    def seconds(self) -> tuple[float, float]:
        """Return the medians of both sides."""
        return statistics.median(self.first), statistics.median(self.second)

    @property
    def ratios(self) -> list[float]:
        """Return how many times longer the first side took, by round."""
        return [first / second for first, second in zip(self.first, self.second, strict=True)]

    @property
    def ratio(self) -> float:
        """Return the ratio of the medians."""
        first, second = self.seconds
        return first / second


def alternate(first: Callable[[], float], second: Callable[[], float], num_rounds: int = ROUNDS) -> Measured:
    """Let two sides take turns, the second one first in every other round; each returns what it took."""
    taken: tuple[list[float], list[float]] = ([], [])
    for place in range(num_rounds):
        for which in (0, 1) if place % 2 == 0 else (1, 0):
            taken[which].append((first, second)[which]())
    return Measured(first=taken[0], second=taken[1])


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a side of `alternate` that takes the seconds of some work."""

    def side() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return side


def cpu_timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return a side of `alternate` that takes the CPU seconds of some work in this process and those it waited for."""

    def side() -> float:
        start = cpu_seconds()
        work()
        return cpu_seconds() - start

    return side


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those it has waited for."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def parser_of(description: str | None, num_rounds: int = ROUNDS) -> argparse.ArgumentParser:
    """Return a parser of the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=num_rounds, help="in which the sides take turns; medians count")
    return parser


def tell(figures: Iterable[Figure]) -> int:
    """Print figures as they come; return the exit status of the script, 1 if one does not reach its bar."""
    status = 0
    with _Meter() as meter:
        for figure in figures:
            status |= not figure.is_reached
            print(f"{'ok ' if figure.is_reached else 'BAD'} {figure.text}", flush=True)
            print(MARK + json.dumps({**asdict(figure), **meter.state()}), flush=True)
    return int(status)


def results_in(output: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield what a script's output says to machines."""
    for line in output:
        if line.startswith(MARK):
            yield json.loads(line.removeprefix(MARK))


def number(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """Return the processor, its cores and the memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = psutil.virtual_memory().total / (1 << 30)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


class TreeClock:
    """CPU seconds of this process and of all its descendants while a block lasts, those that ended included.

    A thread looks at them every `interval` seconds and keeps what each had used: Ray ends its workers without waiting
    for them, so that the operating system forgets them. Of each process that ends, at most the last interval is missed.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._used: dict[tuple[int, float], float] = {}
        self._before = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._look_lock = threading.Lock()

    def __enter__(self) -> "TreeClock":
        self._before = self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        """CPU seconds since the block began."""
        return self._look() - self._before

    def _watch(self) -> None:
        while not self._is_over.wait(self._interval):
            self._look()

    def _look(self) -> float:
        """Return the CPU seconds of all processes that were ever seen."""
        own = psutil.Process()
        with self._look_lock:
            for process in (own, *own.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
            return sum(self._used.values())


class _Meter(TreeClock):
    """How many cores other programs took since the block began."""

    def __enter__(self) -> "_Meter":
        self._start, self._busy = time.monotonic(), _busy_seconds()
        super().__enter__()
        return self

    def state(self) -> dict[str, Any]:
        """Return the machine, the date, and the cores that others took."""
        seconds = max(time.monotonic() - self._start, 1e-3)
        others = _busy_seconds() - self._busy - self.seconds
        return {
            "machine": machine(),
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "other_cores": round(max(others, 0.0) / seconds, 2),
        }


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq
