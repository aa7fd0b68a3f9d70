"""How much memory a tree of processes holds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of a process and all its descendants; those that just ended count nothing."""
    total = 0
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


@contextmanager
def watched(root: psutil.Process, seconds_between: float) -> Iterator[list[int]]:
    """The samples of a process and its descendants during the block, filled as it runs."""
    samples, has_ended = [tree_bytes(root)], threading.Event()

    def watch() -> None:
        while not has_ended.wait(seconds_between):
            samples.append(tree_bytes(root))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        has_ended.set()
        thread.join()
