"""Dispatch of parts to copies of the generator: the least loaded copy that lives answers the next part.

A copy is started only when a part waits for it, and one that is lost is replaced. Losses are counted by part: a part at
which too many copies died ends the run, whereas losses spread over many parts, as on spot nodes, never do. The module
knows neither Ray nor time.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from hydra_ray.errors import GenerationError

MAX_DEATHS = 4
"""Number of copies that may die at one part, or one after the other while they are loaded, before the run fails."""
_DEATHS_OF_SUSPECTS = 2
"""Number of copies that died at a part from which on it is asked alone, so that no other part is blamed for it."""


class CopyLostError(Exception):
    """A copy of the generator died or was ended; it answers nothing any more."""

    def __init__(self, reason: str, *, is_expected: bool = False):
        super().__init__(reason)
        self.is_expected = is_expected
        """Whether its node was taken away, which no part can be the cause of."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Requests of one bucket of one stage."""

    stage: str
    bucket: int
    owner: str
    """Whoever waits for the answers: all parts of one can be given up together."""
    place: str
    """Place of the answers, of which only one part at a time can be answered."""
    content: Mapping[str, Any] = field(repr=False)
    """What the copy is given."""

    def __str__(self) -> str:
        return f"stage {self.stage}, part {self.bucket}"


class Copy(Protocol):
    """A loaded copy of the generator."""

    max_parts: int
    """Number of parts that are worth answering at the same time."""
    node: str
    """Node on which it runs."""

    async def answer(self, part: Part) -> Any:
        """Return the answers of a part.

        Raises:
            CopyLostError: the copy died, or failed so that it cannot be used any more.
            HydraError: the generator answers nobody.
        """
        ...

    def end(self) -> None:
        """End the copy and release what it holds, whatever it does."""
        ...


C = TypeVar("C", bound=Copy)


@dataclass(slots=True, eq=False)
class _Waiting(Generic[C]):
    part: Part
    is_suspect: bool
    turn: "asyncio.Future[_Slot[C]]"


@dataclass(slots=True, eq=False)
class _Slot(Generic[C]):
    """Place of one copy, which may still be starting."""

    copy: C | None = None
    starting: "asyncio.Task[None] | None" = None
    parts: set[Part] = field(default_factory=set)
    is_lent_whole: bool = False
    """Whether a suspect part has it for itself."""
    is_ended: bool = False

    def has_room(self, *, is_suspect: bool) -> bool:
        if self.copy is None or self.is_lent_whole or self.is_ended:
            return False
        return len(self.parts) < (1 if is_suspect else self.copy.max_parts)

    def end(self) -> None:
        self.is_ended = True
        if self.copy is not None:
            self.copy.end()
        elif self.starting is not None:
            self.starting.cancel()


class Dispatch(Generic[C]):
    """Parts that wait, and up to `size` copies that answer them. All its coroutines run in one event loop.

    Args:
        start: starts a copy and waits until it is loaded; cancelled, it ends the copy.
    """

    def __init__(self, start: Callable[[], Awaitable[C]], size: int):
        self._start, self._size = start, size
        self._waiting: list[_Waiting[C]] = []
        self._slots: list[_Slot[C]] = []
        self._leaving: set[_Slot[C]] = set()
        """Copies that are given no more parts."""
        self._given_up: set[str] = set()
        self._failed_starts = 0
        self.num_started, self.num_lost = 0, 0

    @property
    def num_copies(self) -> int:
        """Number of copies that live or are starting."""
        return len(self._slots) + len(self._leaving)

    @property
    def is_idle(self) -> bool:
        """Whether no part waits or is being answered."""
        return not self._waiting and not any(slot.parts for slot in (*self._slots, *self._leaving))

    async def answer(self, part: Part) -> Any:
        """Return the answers of a part, by as many copies as it takes.

        Raises:
            GenerationError: too many copies died at this part, no copy can be loaded, or the owner gave up.
            HydraError: the generator cannot be opened, or answers nobody.
        """
        num_deaths, is_first = 0, False
        while True:
            slot = await self._turn(part, is_first=is_first, is_suspect=num_deaths >= _DEATHS_OF_SUSPECTS)
            try:
                assert slot.copy is not None
                return await slot.copy.answer(part)
            except CopyLostError as lost:
                num_deaths += not (lost.is_expected or slot.is_ended)
                self._lose(slot)
                self._require_wanted(part)
                is_first = True
                if num_deaths >= MAX_DEATHS:
                    raise GenerationError(
                        f"{part}: the generator died {num_deaths} times at this part, the last time because: {lost}. "
                        "Committed parts and the answers so far are kept; see the workers' output in Ray's logs."
                    ) from None
            finally:
                slot.parts.discard(part)
                slot.is_lent_whole = False
                self._assign()

    def give_up(self, owner: str) -> None:
        """Let an owner's parts fail, and end the copies that are answering one, whose answers would be paid."""
        self._given_up.add(owner)
        for waiting in [each for each in self._waiting if each.part.owner == owner]:
            self._waiting.remove(waiting)
            _fail(waiting, _given_up(waiting.part))
        for slot in [*self._slots, *self._leaving]:
            if any(part.owner == owner for part in slot.parts):
                slot.end()

    def retire(self, nodes: set[str]) -> None:
        """Give no more parts to the copies on some nodes, which will go away; each ends with its last part."""
        for slot in [each for each in self._slots if each.copy is not None and each.copy.node in nodes]:
            self._slots.remove(slot)
            self._leaving.add(slot)
        self._assign()

    def copies(self) -> dict[str, int]:
        """Return the number of loaded copies by node."""
        return Counter(slot.copy.node for slot in self._slots if slot.copy is not None)

    def end_idle(self, kept: Mapping[str, int]) -> None:
        """End the copies that no part needs, except as many on each node as are kept, and those that are starting."""
        if self._waiting:
            return
        left = dict(kept)
        at_work = [slot for slot in self._slots if slot.parts]
        for slot in at_work + [slot for slot in self._slots if not slot.parts]:
            node = "" if slot.copy is None else slot.copy.node
            left[node] = left.get(node, 0) - 1
            if left[node] < 0 and not slot.parts:
                self._slots.remove(slot)
                slot.end()

    def asked_copies(self, owner: str) -> list[tuple[C, list[Part]]]:
        """Return the copies that are answering parts of an owner, with these parts."""
        found = [
            (slot.copy, [part for part in slot.parts if part.owner == owner])
            for slot in (*self._slots, *self._leaving)
            if slot.copy is not None
        ]
        return [(copy, parts) for copy, parts in found if parts]

    def idle_copies(self) -> list[C]:
        """Return the loaded copies that answer nothing."""
        return [slot.copy for slot in self._slots if slot.copy is not None and not slot.parts]

    def end_copy(self, copy: C) -> None:
        """End a copy, unless it was given a part meanwhile."""
        for slot in [slot for slot in self._slots if slot.copy is copy and not slot.parts]:
            self._slots.remove(slot)
            slot.end()

    async def _turn(self, part: Part, *, is_first: bool, is_suspect: bool) -> _Slot[C]:
        """Return the copy that is to answer a part, once it is its turn."""
        self._require_wanted(part)
        waiting = _Waiting(part, is_suspect, asyncio.get_running_loop().create_future())
        self._waiting.insert(0 if is_first else len(self._waiting), waiting)
        self._assign()
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
                waiting.turn.result().parts.discard(part)
                self._assign()
            raise

    def _assign(self) -> None:
        """Give waiting parts to copies that have room, the longest waiting first, and start copies for the others."""
        for slot in [each for each in self._leaving if not each.parts]:
            self._leaving.remove(slot)
            slot.end()
        busy = {part.place for slot in (*self._slots, *self._leaving) for part in slot.parts}
        free = [slot for slot in self._slots if slot.has_room(is_suspect=False)]
        num_unserved = 0
        for waiting in list(self._waiting):
            if waiting.turn.done() or waiting.part.place in busy:
                continue
            able = [slot for slot in free if slot.has_room(is_suspect=True)] if waiting.is_suspect else free
            if not able:
                num_unserved += 1
                if waiting.is_suspect and free:  # a copy that has room for others would never become free for it
                    free.remove(min(free, key=_load))
                continue
            slot = min(able, key=_load)
            self._waiting.remove(waiting)
            slot.parts.add(waiting.part)
            slot.is_lent_whole = waiting.is_suspect
            busy.add(waiting.part.place)
            waiting.turn.set_result(slot)
            if not slot.has_room(is_suspect=False):
                free.remove(slot)
        num_starting = sum(slot.copy is None for slot in self._slots)
        for _ in range(min(self._size - len(self._slots), num_unserved - num_starting)):
            slot = _Slot[C]()
            self._slots.append(slot)
            slot.starting = asyncio.ensure_future(self._load(slot))

    async def _load(self, slot: _Slot[C]) -> None:
        """Start a slot's copy; parts that wait fail if it cannot be loaded."""
        try:
            copy = await self._start()
        except CopyLostError as lost:
            self._lose(slot)
            self._failed_starts += not lost.is_expected
            if self._failed_starts >= MAX_DEATHS:
                self._failed_starts = 0
                self._fail_waiting(
                    GenerationError(
                        f"the generator died {MAX_DEATHS} times while it was loaded, the last time because: {lost}. "
                        "Committed parts are kept; see the workers' output in Ray's logs."
                    )
                )
        except Exception as error:
            self._lose(slot)
            self._fail_waiting(error)
        else:
            slot.copy, self._failed_starts = copy, 0
            self.num_started += 1
        self._assign()

    def _lose(self, slot: _Slot[C]) -> None:
        """Take a copy out that is of no more use."""
        if slot in self._slots or slot in self._leaving:
            self.num_lost += slot.copy is not None
            slot.end()
        if slot in self._slots:
            self._slots.remove(slot)
        self._leaving.discard(slot)

    def _fail_waiting(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            _fail(each, error)

    def _require_wanted(self, part: Part) -> None:
        if part.owner in self._given_up:
            raise _given_up(part)


def _load(slot: _Slot[Any]) -> int:
    return len(slot.parts)


def _given_up(part: Part) -> GenerationError:
    return GenerationError(f"{part}: nobody waits for the answers any more")


def _fail(waiting: _Waiting[Any], error: Exception) -> None:
    if not waiting.turn.done():
        waiting.turn.set_exception(error)
