"""Fault schedules: kinds and moments of faults, generated from a seed."""

from collections.abc import Mapping, Sequence
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
    ENDPOINT = "faulty endpoint"
    """Replies with errors, cut off, malformed or missing, and another fault."""
    ODD_REPLIES = "odd replies"
    """Replies of status 200 among good ones, that are no plain answers."""
    CHANGED_MIND = "server that changes its mind"
    """Endpoint that refuses from some call on, and answers again at the next attempt."""
    NO_USAGE = "no usage under a budget"
    """Endpoint that does not tell what its answers took, or lies; the budget is raised after the first attempt."""
    INGEST = "killed while users are read"
    EXPORT = "killed export"
    UPDATE = "killed update"
    KEY = "lost key"
    """The root's key is lost, emptied, cut or changed between two attempts, where users have been forgotten."""
    FLIP = "flipped bit"
    """One bit of an artefact flips between two attempts."""
    FLIP_EXPORT = "flipped bit before an export"
    """One bit of an artefact of a finished run flips, which is then exported."""
    S3_EXPIRED = "expired credentials"
    S3_STORM = "storm of 503"


class Arena(StrEnum):
    """What a schedule runs on; schedules of one arena share an undisturbed run."""

    CLUSTER = "fake"
    """A cluster, with the fake generator."""
    ENDPOINT = "openai"
    """A cluster, with the fake generator behind an endpoint."""
    MODEL = "vllm"
    PROCESS = "process"
    """One process in the place of a cluster, forked for each attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault and its moment. Key: (point, count)."""

    fault: Fault
    point: Point
    count: int
    """Number of times that the point is reached when it strikes."""


Kind = Fault | Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Disturbances of one run. Key: seed."""

    seed: int
    victim: str
    """Stage that asks the generator, or work that is disturbed."""
    strikes: tuple[Strike, ...]
    trouble: Trouble = Trouble.NONE
    variant: str = ""
    """Which of the kind's forms the trouble takes."""

    @property
    def kind(self) -> Kind:
        """Return the kind of disturbance that the schedule is one of."""
        return self.trouble if self.trouble != Trouble.NONE or not self.strikes else self.strikes[0].fault

    @property
    def needs_own_driver(self) -> bool:
        """Return whether faults strike in the driver too: then it is a separate process."""
        faults = {strike.fault for strike in self.strikes}
        return self.trouble == Trouble.TWO_RUNS or not faults.isdisjoint(_IN_DRIVERS)

    @property
    def num_drivers(self) -> int:
        """Return the number of drivers that run at the same time in the first attempt."""
        faults = {strike.fault for strike in self.strikes}
        return 2 if self.trouble == Trouble.TWO_RUNS or not faults.isdisjoint(_BESIDE_ANOTHER) else 1

    def __str__(self) -> str:
        parts = [f"{each.fault} at {each.point} {each.count}" for each in self.strikes]
        parts += [f"{self.trouble} {self.variant}".strip()] if self.trouble != Trouble.NONE else []
        return f"seed {self.seed}, {self.victim}: {', '.join(parts) or 'undisturbed'}"


LASTING = (Fault.DISK_STAYS_FULL, Fault.READ_ONLY, Fault.CLOCK_BACK)
"""Faults that last until the end of the attempt in which they strike."""
_BESIDE_ANOTHER = (Fault.KILL_HOLDER, Fault.CLOCK_BACK)
_IN_DRIVERS = (Fault.KILL_DRIVER, Fault.STOP_DRIVER, Fault.KILL_HOLDER, *LASTING)
_ASKING = (Point.GENERATE, Point.ANSWERED, Point.KEPT)
_WRITING = (Point.COMMIT, Point.COMMITTED)
_LEASING = (Point.LEASE, Point.LEASED)
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
    Fault.KILL_HOLDER: _LEASING,
    Fault.DISK_STAYS_FULL: (*_ASKING, *_WRITING, Point.MANIFEST, *_LEASING),
    Fault.READ_ONLY: (*_ASKING, *_WRITING, Point.MANIFEST, *_LEASING),
    Fault.CLOCK_BACK: (*_ASKING, *_WRITING, *_LEASING),
}
_DRIVER_DIES: Mapping[Trouble, tuple[Point, ...]] = {
    Trouble.INGEST: (Point.READ, *_WRITING, Point.MANIFEST, *_LEASING),
    Trouble.EXPORT: (Point.EXPORT,),
    Trouble.UPDATE: (Point.READ, *_ASKING, *_WRITING, Point.MANIFEST, *_LEASING),
}
"""Troubles in which the one process that does all the work is killed, and where."""
ARTEFACTS = (
    "users",
    "rejected",
    "profiles",
    "probes",
    "retrieved",
    "examples",
    "features",
    "base",
    "heads",
    "head prior",
    "labeller",
    "drafts",
    "errors",
    "gate",
    "completions",
    "manifest",
)
"""Kinds of artefacts below a root."""
_VARIANTS: Mapping[Trouble, tuple[str, ...]] = {
    Trouble.CHANGED_MIND: ("401", "402", "403", "404", "insufficient_quota", "403 once", "429 for an hour"),
    Trouble.NO_USAGE: ("null", "negative", "text", "absent", "huge"),
    Trouble.KEY: ("removed", "emptied", "cut", "changed"),
    Trouble.FLIP: ARTEFACTS,
    Trouble.FLIP_EXPORT: ("users", "base", "heads", "head prior", "labeller", "manifest", "exported"),
}
_ENDED_FIRST = (Trouble.CLOCK, Trouble.OTHER_VERSION, Trouble.KEY)
"""Troubles that come between two attempts, so that a fault ends the first."""
_SECOND = (Fault.KILL_WORKER, Fault.KILL_ACTOR, Fault.ENGINE_DEATH, Fault.DISK_FULL, Fault.TRUNCATE, Fault.FAILED_ROWS)
_ALONE = (Trouble.TWO_RUNS, Trouble.CHANGED_MIND, Trouble.NO_USAGE, Fault.KILL_HOLDER, *LASTING)
"""Kinds with no second fault: what they must do is told by how the first attempt ends."""
_AT_ENDPOINT = (Trouble.ENDPOINT, Trouble.ODD_REPLIES, Trouble.CHANGED_MIND, Trouble.NO_USAGE)
_IN_PROCESS = (
    *_DRIVER_DIES,
    Trouble.KEY,
    Trouble.FLIP,
    Trouble.FLIP_EXPORT,
    Trouble.S3_EXPIRED,
    Trouble.S3_STORM,
)
KINDS: tuple[Kind, ...] = (
    *_POINTS,
    Trouble.TWO_RUNS,
    Trouble.CLOCK,
    Trouble.OTHER_VERSION,
    *_AT_ENDPOINT,
    *_IN_PROCESS,
)
"""All kinds of disturbances; consecutive seeds take turns."""
NUM_KINDS = len(KINDS)
_SECOND_SHARE = 0.3


def arena_of(kind: Kind) -> Arena:
    """Return what schedules of a kind run on."""
    if kind in _AT_ENDPOINT:
        return Arena.ENDPOINT
    return Arena.PROCESS if kind in _IN_PROCESS else Arena.CLUSTER


def kind_of(seed: int, kinds: Sequence[Kind] = KINDS) -> Kind:
    """Return the kind of a seed's schedule."""
    return kinds[seed % len(kinds)]


def schedule_of(seed: int, reached: Mapping[str, Mapping[Point, int]], kinds: Sequence[Kind] = KINDS) -> Schedule:
    """Return the schedule of a seed; kinds take turns.

    Args:
        reached: number of times that each point is reached in an undisturbed run, by the stage that asks, or by the
            trouble of work of another kind.
        kinds: kinds that take turns.
    """
    random, kind, turn = Random(f"chaos {seed}"), kind_of(seed, kinds), seed // len(kinds)
    if kind in _IN_PROCESS:
        return _in_process(seed, Trouble(kind), turn, random, reached)
    victim = random.choice(STAGES)
    faults: list[Fault] = []
    trouble = Trouble.NONE
    if isinstance(kind, Fault):
        faults.append(kind)
    else:
        trouble = kind
        faults += [Fault.DISK_FULL] if kind in _ENDED_FIRST else []
        faults += [list(_POINTS)[turn % _NUM_FIRST]] if kind == Trouble.ENDPOINT else []
    if kind not in _ALONE and random.random() < _SECOND_SHARE:
        faults.append(random.choice(_SECOND))
    strikes: dict[tuple[Point, int], Strike] = {}
    for fault in faults:
        strike = _strike(fault, _POINTS[fault], reached[victim], random)
        strikes.setdefault((strike.point, strike.count), strike)
    return Schedule(
        seed=seed, victim=victim, strikes=tuple(strikes.values()), trouble=trouble, variant=_variant(trouble, turn)
    )


_NUM_FIRST = len(_POINTS) - len(LASTING) - 1
"""Number of faults, from the first one on, that may strike while an endpoint is faulty."""


def _in_process(
    seed: int, trouble: Trouble, turn: int, random: Random, reached: Mapping[str, Mapping[Point, int]]
) -> Schedule:
    strikes: tuple[Strike, ...] = ()
    if trouble in _DRIVER_DIES:
        strikes = (_strike(Fault.KILL_DRIVER, _DRIVER_DIES[trouble], reached[trouble], random),)
    elif trouble in _ENDED_FIRST:
        strikes = (_strike(Fault.DISK_FULL, (Point.COMMIT,), reached[Trouble.INGEST], random),)
    victims = {Trouble.INGEST: "users", Trouble.KEY: "users", Trouble.EXPORT: "export", Trouble.FLIP_EXPORT: "export"}
    return Schedule(
        seed=seed,
        victim=victims.get(trouble, "answers"),
        strikes=strikes,
        trouble=trouble,
        variant=_variant(trouble, turn),
    )


def _strike(fault: Fault, points: Sequence[Point], reached: Mapping[Point, int], random: Random) -> Strike:
    point = random.choice(points)
    return Strike(fault=fault, point=point, count=random.randint(1, reached[point]))


def _variant(trouble: Trouble, turn: int) -> str:
    variants = _VARIANTS.get(trouble, ("",))
    return variants[turn % len(variants)]
