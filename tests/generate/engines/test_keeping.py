import asyncio
import threading

import pytest

from hydra_ray.generate.engines.keeping import MAX_WAITING, Keeper
from hydra_ray.rows import Completion


def completion(number: int) -> Completion:
    return Completion(request_id=str(number), user_id="u", prompt_tokens=1, generations=(), error=None)


class Kept:
    """What was kept, batch by batch, and a way to wait for it."""

    def __init__(self):
        self.batches: list[list[str]] = []
        self._has_come = threading.Event()

    def __call__(self, completions):
        self.batches.append([each.request_id for each in completions])
        self._has_come.set()

    async def comes(self):
        await asyncio.to_thread(self._has_come.wait, 30)
        self._has_come.clear()

    @property
    def all(self):
        return [each for batch in self.batches for each in batch]


def test_all_is_kept_once_and_in_order_when_the_block_ends():
    kept = Kept()

    async def work():
        async with Keeper(kept, seconds=60) as keeper:
            for number in range(5):
                keeper.add(completion(number))
        return keeper.completions

    assert [each.request_id for each in asyncio.run(work())] == kept.all == list("01234")
    assert len(kept.batches) == 1


def test_an_answer_is_kept_soon_while_others_are_awaited():
    kept = Kept()

    async def work():
        async with Keeper(kept, seconds=0.001) as keeper:
            keeper.add(completion(0))
            await kept.comes()
            assert kept.all == ["0"]
            keeper.add(completion(1))
            await kept.comes()

    asyncio.run(work())
    assert kept.batches == [["0"], ["1"]]


def test_many_answers_are_kept_at_once():
    kept = Kept()

    async def work():
        async with Keeper(kept, seconds=3600) as keeper:
            for number in range(MAX_WAITING):
                keeper.add(completion(number))
            await kept.comes()
            assert len(kept.all) == MAX_WAITING

    asyncio.run(work())


@pytest.mark.parametrize("error", [RuntimeError("the engine died"), asyncio.CancelledError()])
def test_what_was_answered_before_an_error_or_a_cancellation_is_kept(error: BaseException):
    kept = Kept()

    async def work():
        async with Keeper(kept, seconds=3600) as keeper:
            keeper.add(completion(0))
            raise error

    with pytest.raises(type(error)):
        asyncio.run(work())
    assert kept.all == ["0"]


def test_a_task_that_is_cancelled_keeps_what_it_has():
    kept = Kept()

    async def answer():
        async with Keeper(kept, seconds=3600) as keeper:
            keeper.add(completion(0))
            await asyncio.Event().wait()

    async def work():
        task = asyncio.create_task(answer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert kept.all == ["0"]


def test_a_store_that_fails_ends_the_work_at_the_next_answer():
    def fail(_):
        raise OSError("no room left")

    async def work():
        async with Keeper(fail, seconds=0.001) as keeper:
            while True:
                keeper.add(completion(0))
                await asyncio.sleep(0)

    with pytest.raises(OSError, match="no room left"):
        asyncio.run(work())


def test_batches_of_a_part_are_kept_one_after_the_other():
    lock, kept = threading.Lock(), Kept()

    def keep(completions):
        assert lock.acquire(blocking=False)
        kept(completions)
        lock.release()

    async def work():
        async with Keeper(keep, seconds=3600, max_waiting=1) as keeper:
            for number in range(200):
                keeper.add(completion(number))
                await asyncio.sleep(0)

    asyncio.run(work())
    assert kept.all == list(map(str, range(200)))


def test_nothing_is_kept_where_nothing_came():
    kept = Kept()

    async def work():
        async with Keeper(kept, seconds=0.001):
            await asyncio.sleep(0)

    asyncio.run(work())
    assert kept.batches == []
