"""Being asked to stop: the first signal ends the program in an orderly way, the second at once.

Ctrl-C, SIGTERM and `ray job stop` (which sends SIGTERM, and SIGKILL some seconds later) are treated alike: parts in
flight are dropped, and what is committed stays.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []
_deferring: list[None] = []


class Stopped(KeyboardInterrupt):
    """The program was asked to stop. Raised wherever the main thread is when the signal comes."""

    def __init__(self, signal_number: int):
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """As shells tell that a signal ended a program: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


@contextmanager
def stops_gracefully() -> Iterator[None]:
    """Let signals raise Stopped meanwhile; in another thread than the main one, which no signal reaches, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    previous = {each: signal.signal(each, _stop) for each in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        # Where a signal comes while Ray waits, Ray says KeyboardInterrupt, whatever the handler raised.
        require_not_stopped()
        raise
    finally:
        _received.clear()
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextmanager
def defers_stop() -> Iterator[None]:
    """Raise at the end of the block what a signal would have raised within; a second one still ends the program."""
    _deferring.append(None)
    try:
        yield
    finally:
        _deferring.pop()
    if not _deferring:
        require_not_stopped()


@contextmanager
def own_handlers() -> Iterator[None]:
    """Keep what this program does on signals, whatever a library puts in its place meanwhile."""
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
    """What `work` returns, called in a thread of its own: there, libraries let signals alone.

    Args:
        watch: called here every so many `seconds` meanwhile.
    """
    outcome: Future[T] = Future()

    def call() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    while not wait([outcome], timeout=seconds).done:
        watch()
    return outcome.result()


def require_not_stopped() -> None:
    """Check that no signal has come.

    Raises:
        Stopped: one has, and what it raised was swallowed, as happens where an object is being finalized.
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
