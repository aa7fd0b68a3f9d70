"""Outcome of a schedule, and what is found of its attempts as they are made."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from fault_checks import Difference, paid_again
from fault_points import payments, struck
from fault_schedules import Schedule

MAX_ATTEMPTS = 8
NO_DIFFERENCE = Difference(num_lost=0, num_duplicate=0, changed=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of one schedule."""

    schedule: Schedule
    struck: tuple[str, ...] = ()
    """Kinds of faults, those of the endpoint included."""
    difference: Difference = NO_DIFFERENCE
    paid_needlessly: int = 0
    paid_in_flight: int = 0
    num_attempts: int = 0
    seconds: float
    problems: tuple[str, ...] = ()
    """Other problems."""
    refusals: tuple[str, ...] = ()
    """Classes of the errors with which attempts ended."""

    @property
    def is_good(self) -> bool:
        """Return whether the work ended as if nothing had happened."""
        return not (self.difference.changed or self.paid_needlessly or self.problems)


@dataclass(slots=True, kw_only=True)
class Attempts:
    """Attempts of one schedule at its work."""

    schedule: Schedule
    folder: Path
    """Folder of the schedule, with that of faults."""
    deadline_seconds: float
    number: int = 0
    problems: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    """Classes of the errors with which attempts ended."""
    start: float = field(default_factory=time.monotonic)

    def paid_again(self) -> tuple[int, int]:
        """Return the number of requests that were paid twice needlessly, and of those in flight when a process died."""
        needless, in_flight = paid_again(payments(self.folder / "faults"))
        return len(needless), len(in_flight)

    def outcome(self, difference: Difference, paid_again: tuple[int, int], also_struck: tuple[str, ...]) -> Outcome:
        """Return the outcome; the folder of a good one is removed."""
        needless, in_flight = paid_again
        outcome = Outcome(
            schedule=self.schedule,
            struck=(*struck(self.folder / "faults"), *also_struck),
            difference=difference,
            paid_needlessly=needless,
            paid_in_flight=in_flight,
            num_attempts=self.number,
            seconds=time.monotonic() - self.start,
            problems=tuple(self.problems),
            refusals=tuple(self.refusals),
        )
        if outcome.is_good:
            shutil.rmtree(self.folder)
        return outcome
