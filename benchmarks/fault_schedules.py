"""Fault schedules: kinds and moments of faults, generated from a seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from fault_points import Fault, Point

STAGES = ("profiles", "probes", "drafts")
"""Stages that ask the generator; in a schedule one of them asks, and the others find their answers."""


class Trouble(StrEnum):
    """Disturbance of a run besides faults at points."""

    NONE = "none"
    TWO_RUNS = "two runs at once"
    CLOCK = "clock change"
    """Change of all files' times between two attempts, to the past and the future."""
    OTHER_VERSION = "manifest of another version"
    """Manifest of an unknown version in a finished stage between two attempts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault and its moment. Key: (point, count)."""

    fault: Fault
    point: Point
    count: int
    """Number of times that the point is reached when it strikes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Disturbances of one run. Key: seed."""

    seed: int
    victim: str
    """Stage that asks the generator."""
    strikes: tuple[Strike, ...]
    trouble: Trouble = Trouble.NONE

    @property
    def needs_own_driver(self) -> bool:
        """Return whether a driver may die: then it is a separate process."""
        faults = {strike.fault for strike in self.strikes}
        return self.trouble == Trouble.TWO_RUNS or not faults.isdisjoint({Fault.KILL_DRIVER, Fault.STOP_DRIVER})

    def __str__(self) -> str:
        parts = [f"{each.fault} at {each.point} {each.count}" for each in self.strikes]
        parts += [self.trouble] if self.trouble != Trouble.NONE else []
        return f"seed {self.seed}, {self.victim}: {', '.join(parts) or 'undisturbed'}"


_ASKING = (Point.GENERATE, Point.ANSWERED, Point.KEPT)
_WRITING = (Point.COMMIT, Point.COMMITTED)
_POINTS: Mapping[Fault, tuple[Point, ...]] = {
    Fault.KILL_WORKER: _WRITING,
    Fault.KILL_ACTOR: _ASKING,
    Fault.ENGINE_DEATH: (Point.GENERATE, Point.ANSWERED),
    Fault.KILL_NODE: _ASKING + _WRITING,
    Fault.KILL_DRIVER: (*_ASKING, *_WRITING, Point.MANIFEST),
    Fault.STOP_DRIVER: (*_ASKING, *_WRITING, Point.MANIFEST),
    Fault.DISK_FULL: (Point.COMMIT,),
    Fault.TRUNCATE: (Point.COMMITTED,),
    Fault.FAILED_ROWS: (Point.GENERATE,),
}
_SECOND = (Fault.KILL_WORKER, Fault.KILL_ACTOR, Fault.ENGINE_DEATH, Fault.DISK_FULL, Fault.TRUNCATE, Fault.FAILED_ROWS)
_MAIN: tuple[Fault | Trouble, ...] = (*_POINTS, Trouble.TWO_RUNS, Trouble.CLOCK, Trouble.OTHER_VERSION)
NUM_KINDS = len(_MAIN)
"""Number of consecutive seeds with different kinds of faults."""
_SECOND_SHARE = 0.3


def schedule_of(seed: int, reached: Mapping[str, Mapping[Point, int]]) -> Schedule:
    """Return the schedule of a seed; kinds of faults take turns.

    Args:
        reached: number of times that each point is reached in an undisturbed run, by the stage that asks.
    """
    random, main = Random(f"chaos {seed}"), _MAIN[seed % len(_MAIN)]
    victim = random.choice(STAGES)
    faults, trouble = [], Trouble.NONE
    if isinstance(main, Fault):
        faults.append(main)
    else:
        trouble = main
        # A clock or a manifest can change only between two attempts, so a fault ends the first.
        faults += [] if main == Trouble.TWO_RUNS else [Fault.DISK_FULL]
    if trouble != Trouble.TWO_RUNS and random.random() < _SECOND_SHARE:
        faults.append(random.choice(_SECOND))
    strikes = {}
    for fault in faults:
        point = random.choice(_POINTS[fault])
        strike = Strike(fault=fault, point=point, count=random.randint(1, reached[victim][point]))
        strikes.setdefault((point, strike.count), strike)
    return Schedule(seed=seed, victim=victim, strikes=tuple(strikes.values()), trouble=trouble)
