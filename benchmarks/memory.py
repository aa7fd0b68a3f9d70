"""How much memory a tree of processes holds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

SECONDS_BETWEEN_SAMPLES = 0.5


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
def watched() -> Iterator[list[int]]:
    """The samples of this process and its descendants during the block, filled as it runs."""
    samples, has_ended = [tree_bytes(psutil.Process())], threading.Event()

    def watch() -> None:
        while not has_ended.wait(SECONDS_BETWEEN_SAMPLES):
            samples.append(tree_bytes(psutil.Process()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        has_ended.set()
        thread.join()
