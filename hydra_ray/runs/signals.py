"""Graceful shutdown: the first signal stops the program in an orderly way, the second one at once.

Ctrl-C, SIGTERM and `ray job stop` (which sends SIGTERM, then SIGKILL after some seconds) are handled alike: parts in
flight are dropped, committed parts are kept.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_deferring: list[None] = []


class Stopped(KeyboardInterrupt):
    """Raised in the main thread, wherever it is, when a signal asks the program to stop."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """Exit status by the shell's convention: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


@contextmanager
def stops_gracefully() -> Iterator[None]:
    """Let signals raise Stopped within the block; does nothing outside the main thread, which signals never reach."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    previous = {each: signal.signal(each, _stop) for each in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        # If a signal arrives while Ray waits, Ray raises KeyboardInterrupt whatever the handler raised.
        require_not_stopped()
        raise
    finally:
        _received.clear()
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextmanager
def defers_stop() -> Iterator[None]:
    """Postpone what a signal would raise to the end of the block; a second signal still ends the program."""
    _deferring.append(None)
    try:
        yield
    finally:
        _deferring.pop()
    if not _deferring:
        require_not_stopped()


@contextmanager
def own_handlers() -> Iterator[None]:
    """Restore this program's signal handlers after a block in which a library may replace them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {each: signal.getsignal(each) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            if handler is _stop:
                signal.signal(each, handler)


def call_aside(work: Callable[[], T], watch: Callable[[], None], seconds: float = 5.0) -> T:
    """Return the result of `work`, called in a separate thread, where libraries leave signals alone.

    Args:
        watch: called in this thread every `seconds` meanwhile.
    """
    outcome = begin_aside(work)
    while not wait([outcome], timeout=seconds).done:
        watch()
    return outcome.result()


def begin_aside(work: Callable[[], T]) -> Future[T]:
    """Call `work` in a separate thread, which ends with the program and knows what this one is at work on."""
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=copy_context().run, args=(call,), daemon=True).start()
    return outcome


def require_not_stopped() -> None:
    """Check that no signal has arrived.

    Raises:
        Stopped: a signal arrived and its exception was swallowed, as happens in finalizers.
    """
    if _received:
        raise Stopped(_received[0])


def _stop(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if _received:
        os._exit(128 + signal_number)
    _received.append(signal_number)
    if _deferring:
        return
    raise Stopped(signal_number)
