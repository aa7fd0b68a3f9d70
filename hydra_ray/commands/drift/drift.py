"""`hydra-ray drift`: whether what users share still fits, from what a finished run and its updates have stored.

No generator is asked, nothing is learned or kept, and no Ray is started.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hydra_ray.commands.drift.changes import Figure, UserMeans
from hydra_ray.commands.drift.generations import Generation, StoredLine, read_line
from hydra_ray.config import RunConfig
from hydra_ray.evaluate.intervals import Interval
from hydra_ray.retrieve.dense import Encode

NUM_PRESENT = 100
"""Number of users up to which the newest updates are taken together as the present."""

Verdict = Literal["refresh", "no sign of drift", "too few", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGeneration:
    """Figures of one generation, or of several as one."""

    runs: tuple[str, ...]
    num_users: int
    num: int
    """Number of records, or of queries."""
    is_enough: bool
    """Whether these are enough users to be compared with the start."""
    figures: tuple[Figure, ...]
    """Figures of each system; none where nobody has any."""

    def figure(self, name: str) -> Figure:
        """Return the figure of a system."""
        return next(each for each in self.figures if each.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What generations show of what users share."""

    run: str
    task: str
    kind: str
    is_of_records: bool
    """Whether figures are log losses of held-out records, in nats, and not qualities of answers (0 to 1)."""
    deciding: str
    """Name of the figure that decides: own heads where they count in the run, else the user's records; of answers the
    gain over RAG."""
    verdict: Verdict
    loss: Interval | None
    """What the run loses against the start by the deciding figure: above zero where it has become worse; None where it
    cannot be told."""
    start: FoundGeneration
    updates: tuple[FoundGeneration, ...]
    """Each update, oldest first."""
    present: FoundGeneration
    """The newest updates together, as many as it takes to have NUM_PRESENT users, or all."""


def drift(run_folder: str, open_encode: Callable[[RunConfig], Encode]) -> Drift:
    """Compare the records, or answers, of each update of a finished run with those of the run itself.

    Args:
        open_encode: function that opens the text encoder; called only where vectors of texts are not kept.

    Raises:
        InputError: there is no such run, it is not finished, or it is itself an update.
    """
    return drift_of(read_line(run_folder, open_encode))


def drift_of(line: StoredLine) -> Drift:
    """Compare the generations of a line with its start, and judge the present."""
    first, *updates = line.generations
    present = _present(updates)
    found = _found(line, [each.run for each in present], _joined(present), first.users)
    loss = _loss(line, found)
    return Drift(
        run=line.config.run,
        task=line.task.name,
        kind=line.task.kind,
        is_of_records=line.is_of_records,
        deciding=line.deciding,
        verdict=_verdict(line, first, loss),
        loss=loss,
        start=_found(line, [first.run], first.users, None),
        updates=tuple(_found(line, [each.run], each.users, first.users) for each in updates),
        present=found,
    )


def _present(updates: Sequence[Generation]) -> list[Generation]:
    """Return the newest updates that together have NUM_PRESENT users, or all, oldest first."""
    taken: list[Generation] = []
    users = set[str]()
    for each in reversed(updates):
        if len(users) < NUM_PRESENT:
            taken.insert(0, each)
            users.update(each.users.user_ids)
    return taken


def _joined(generations: Sequence[Generation]) -> UserMeans:
    users = UserMeans([])
    for each in generations:
        users = users.joined(each.users)
    return users


def _found(line: StoredLine, runs: Sequence[str], users: UserMeans, start: UserMeans | None) -> FoundGeneration:
    return FoundGeneration(
        runs=tuple(runs),
        num_users=users.num_users,
        num=users.num,
        is_enough=users.is_enough,
        figures=users.figures(line.names, start),
    )


def _loss(line: StoredLine, present: FoundGeneration) -> Interval | None:
    change = present.figure(line.deciding).change if present.figures else None
    if change is None or line.is_of_records:
        return change
    low, high = (None if bound is None else -bound for bound in (change.high, change.low))
    return Interval(value=-change.value, low=low, high=high)


def _verdict(line: StoredLine, first: Generation, loss: Interval | None) -> Verdict:
    if loss is not None:
        return "refresh" if loss.is_above_zero else "no sign of drift"
    updates = line.generations[1:]
    has_any = first.users.num_users > 0 and (not updates or any(each.users.num_users for each in updates))
    return "too few" if has_any or line.is_of_records else "unknown"
