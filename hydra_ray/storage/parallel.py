"""Requests to a store side by side, in a bounded number, for processes that would otherwise wait for each."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

THREADS = 32
"""Number of small requests, such as those for footers, that a process has under way at once."""
PARTS_AHEAD = 8
"""Number of whole parts that a process has in memory at once, while they are read or written."""


def mapped(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_threads: int = PARTS_AHEAD
) -> Iterator[ResultT]:
    """Yield the results of `work` in the order of the items, which are taken only as far ahead as there are threads."""
    left = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[ResultT]] = deque(pool.submit(work, item) for item in islice(left, num_threads))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(left, 1))
        finally:
            for each in waiting:
                each.cancel()
