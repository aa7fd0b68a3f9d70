"""Work that is killed before one of its writes, again and again, until it comes to its end."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from hydra_ray.storage import files

ResultT = TypeVar("ResultT")
MOST_KILLS = 60


def killed_until_it_ends(
    patch: pytest.MonkeyPatch, work: Callable[[], ResultT], num_writes: Callable[[int], int]
) -> tuple[ResultT, int]:
    """What the work returns in the end, and how often it was killed before.

    Args:
        num_writes: takes how often it was killed already; returns after how many writes it is killed next.
    """
    known, num_left = files.open_output, 0

    def open_output(location: str) -> Any:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise KeyboardInterrupt
        return known(location)

    with patch.context() as patched:
        patched.setattr(files, "open_output", open_output)
        for num_kills in range(MOST_KILLS):
            num_left = num_writes(num_kills)
            try:
                return work(), num_kills
            except KeyboardInterrupt:
                continue
    raise AssertionError(f"killed {MOST_KILLS} times, it has not come to its end")
