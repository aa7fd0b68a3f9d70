"""Dispatch with copies that answer, die and fail as they are told; time plays no part."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hydra_ray.engine.dispatch import MAX_DEATHS, CopyLostError, Dispatch, Part
from hydra_ray.errors import GenerationError, ModelError


def part(bucket: int, place: str | None = None, owner: str = "owner") -> Part:
    return Part(stage="probes", bucket=bucket, owner=owner, place=place or f"bucket {bucket}", content={})


class Copies:
    """Copies that answer a part when it is told to, or whenever they are asked."""

    def __init__(self, max_parts: int = 1, *, waits: bool = False, node: str = "node"):
        self.max_parts, self.waits, self.node = max_parts, waits, node
        self.asked: list[tuple[SimulatedCopy, Part]] = []
        self.all: list[SimulatedCopy] = []
        self.losses: Callable[[Part], CopyLostError | None] = lambda _: None

    async def start(self) -> "SimulatedCopy":
        copy = SimulatedCopy(self)
        self.all.append(copy)
        return copy

    @property
    def living(self) -> list["SimulatedCopy"]:
        return [copy for copy in self.all if not copy.is_over]


class SimulatedCopy:
    def __init__(self, copies: Copies):
        self._copies = copies
        self.max_parts, self.node = copies.max_parts, copies.node
        self.is_over = False
        self.turns: dict[Part, asyncio.Future[None]] = {}

    async def answer(self, asked: Part) -> Any:
        if self.is_over:
            raise CopyLostError("it has ended")
        self._copies.asked.append((self, asked))
        if loss := self._copies.losses(asked):
            self.end()
            raise loss
        turn = self.turns[asked] = asyncio.get_running_loop().create_future()
        if not self._copies.waits:
            turn.set_result(None)
        try:
            await turn
        finally:
            del self.turns[asked]
        return asked.bucket

    def end(self) -> None:
        self.is_over = True
        for turn in self.turns.values():
            if not turn.done():
                turn.set_exception(CopyLostError("it was ended"))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(work: Awaitable[Any]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(work, 20)

    return asyncio.run(within())


def test_every_part_is_answered_by_no_more_copies_than_there_may_be():
    copies = Copies()
    dispatch = Dispatch(copies.start, size=3)

    async def work() -> list[int]:
        return await asyncio.gather(*(dispatch.answer(part(bucket)) for bucket in range(20)))

    assert run(work()) == list(range(20))
    assert len(copies.all) == 3
    assert dispatch.is_idle


def test_no_copy_is_started_before_a_part_waits_and_none_for_which_no_part_waits():
    copies = Copies(waits=True)

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=5)
        await settle()
        assert not copies.all
        asked = [asyncio.ensure_future(dispatch.answer(part(bucket))) for bucket in range(2)]
        await settle()
        assert len(copies.all) == 2
        for each in asked:
            each.cancel()

    run(work())


def test_the_least_loaded_copy_is_asked_next():
    copies = Copies(max_parts=3, waits=True)

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=2)
        asked = [asyncio.ensure_future(dispatch.answer(part(bucket))) for bucket in range(4)]
        await settle()
        assert [len(copy.turns) for copy in copies.all] == [3, 1]  # the first was there first
        for turn in list(copies.all[0].turns.values()):
            turn.set_result(None)
        await settle()
        asked.append(asyncio.ensure_future(dispatch.answer(part(5))))
        await settle()
        assert [len(copy.turns) for copy in copies.all] == [1, 1]
        for each in asked:
            each.cancel()

    run(work())


def test_parts_with_the_same_place_are_answered_one_after_the_other():
    copies = Copies(max_parts=4, waits=True)

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=2)
        asked = [asyncio.ensure_future(dispatch.answer(part(bucket, "one place"))) for bucket in range(2)]
        await settle()
        assert [each.bucket for _, each in copies.asked] == [0]
        next(iter(copies.all[0].turns.values())).set_result(None)
        await settle()
        assert [each.bucket for _, each in copies.asked] == [0, 1]
        next(iter(copies.all[0].turns.values())).set_result(None)
        assert await asyncio.gather(*asked) == [0, 1]

    run(work())


def test_losses_spread_over_parts_never_end_a_run():
    copies, lost = Copies(), set[int]()

    def losses(asked: Part) -> CopyLostError | None:
        if asked.bucket in lost:
            return None
        lost.add(asked.bucket)
        return CopyLostError("it died")

    copies.losses = losses
    dispatch = Dispatch(copies.start, size=2)

    async def work() -> list[int]:
        return await asyncio.gather(*(dispatch.answer(part(bucket)) for bucket in range(20)))

    assert run(work()) == list(range(20))
    assert dispatch.num_lost == 20


@pytest.mark.parametrize("max_parts", [1, 8])
def test_a_part_at_which_too_many_copies_died_is_named_and_no_other_is_blamed(max_parts: int):
    copies = Copies(max_parts)
    copies.losses = lambda asked: CopyLostError("out of memory") if asked.bucket == 7 else None
    dispatch = Dispatch(copies.start, size=2)

    async def work() -> list[Any]:
        asked = (dispatch.answer(part(bucket)) for bucket in range(30))
        return await asyncio.gather(*asked, return_exceptions=True)

    found = run(work())
    failed = [each for each in found if isinstance(each, Exception)]
    assert len(failed) == 1
    with pytest.raises(GenerationError, match=f"part 7: the generator died {MAX_DEATHS} times .* out of memory"):
        raise failed[0]
    assert found[:7] + found[8:] == [*range(7), *range(8, 30)]


def test_the_loss_of_a_node_is_no_parts_fault():
    copies = Copies()
    num_left = 3 * MAX_DEATHS

    def losses(_: Part) -> CopyLostError | None:
        nonlocal num_left
        num_left -= 1
        return CopyLostError("preempted", is_expected=True) if num_left >= 0 else None

    copies.losses = losses
    assert run(Dispatch(copies.start, size=1).answer(part(3))) == 3


def test_a_generator_that_cannot_be_opened_fails_the_parts_that_wait():
    async def start() -> Any:
        raise ModelError("no such model")

    dispatch = Dispatch(start, size=2)

    async def work() -> list[Any]:
        asked = (dispatch.answer(part(bucket)) for bucket in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [str(each) for each in run(work())] == ["no such model"] * 3


def test_copies_that_die_while_they_are_loaded_end_the_run_by_their_number():
    num_started = 0

    async def start() -> Any:
        nonlocal num_started
        num_started += 1
        raise CopyLostError("killed")

    with pytest.raises(GenerationError, match=f"died {MAX_DEATHS} times while it was loaded.*killed"):
        run(Dispatch(start, size=1).answer(part(0)))
    assert num_started == MAX_DEATHS


def test_a_copy_on_a_drained_node_ends_with_its_last_part_and_is_replaced():
    copies = Copies(waits=True)

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=1)
        asked = [asyncio.ensure_future(dispatch.answer(part(bucket))) for bucket in range(2)]
        await settle()
        old = copies.all[0]
        copies.node = "another node"
        dispatch.retire({"node"})
        await settle()
        assert [each.bucket for copy, each in copies.asked if copy is not old] == [1]
        assert not old.is_over
        for copy in copies.all:
            for turn in copy.turns.values():
                turn.set_result(None)
        await settle()
        assert old.is_over
        assert await asyncio.gather(*asked) == [0, 1]
        assert len(copies.living) == 1

    run(work())


def test_who_gives_up_ends_the_copies_that_work_for_it_and_others_are_asked_again():
    copies = Copies(max_parts=2, waits=True)

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=1)
        own = [asyncio.ensure_future(dispatch.answer(part(bucket, owner="gone"))) for bucket in (0, 2)]
        other = asyncio.ensure_future(dispatch.answer(part(1, owner="stays")))
        await settle()
        dispatch.give_up("gone")
        await settle()
        assert copies.all[0].is_over
        assert all(isinstance(each.exception(), GenerationError) for each in own)
        for copy in copies.living:
            for turn in copy.turns.values():
                turn.set_result(None)
        assert await other == 1

    run(work())


def test_idle_copies_are_ended_but_those_that_are_kept():
    copies = Copies()

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=3)
        await asyncio.gather(*(dispatch.answer(part(bucket)) for bucket in range(3)))
        dispatch.end_idle({"node": 2})
        assert (dispatch.num_copies, len(copies.living)) == (2, 2)
        dispatch.end_idle({})
        assert (dispatch.num_copies, len(copies.living)) == (0, 0)
        assert await dispatch.answer(part(9)) == 9  # the next part starts another

    run(work())


def test_a_part_that_nobody_waits_for_any_more_leaves_its_place():
    copies = Copies(waits=True)

    async def work() -> None:
        dispatch = Dispatch(copies.start, size=1)
        first, second = (asyncio.ensure_future(dispatch.answer(part(bucket))) for bucket in range(2))
        await settle()
        second.cancel()
        await settle()
        next(iter(copies.all[0].turns.values())).set_result(None)
        assert await first == 0
        assert dispatch.is_idle

    run(work())
