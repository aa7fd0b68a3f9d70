"""Memory of a tree of processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def tree_bytes(root: psutil.Process) -> int:
    """Return the proportional set size of a process and all its descendants; processes that just ended count 0."""
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
    """Sample the memory of a process and its descendants during the block."""
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
