"""A stream that ends early when it is time to stop, also while nothing comes: machines may be long in coming, or never come."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
_INTERVAL_S = 1.0


def until(should_stop: Callable[[], bool], stream: Iterator[T]) -> Iterator[T]:
    """`stream`, until `should_stop`, which is asked after each item and, in the main thread, every second between them.

    What was on its way when it says so does not come.
    """
    alarm = _Alarm(should_stop)
    while True:
        try:
            with alarm.set():
                item = next(stream)
        except StopIteration:
            return
        except BaseException:
            # Ours may come as another: Ray waits in C++, and what is raised there trips over what is raised next.
            if alarm.has_rung:
                return
            raise
        yield item
        if should_stop():
            return


class _ItIsTimeError(BaseException):
    """Not an Exception: whoever waits below must not take it for an error of its own."""


class _Alarm:
    """Asks every second while it is set, and interrupts the main thread once it is told to."""

    def __init__(self, should_stop: Callable[[], bool]) -> None:
        self.has_rung = False
        self._should_stop = should_stop

    @contextmanager
    def set(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals come to the main thread alone
            return
        started_s, handler = time.monotonic(), signal.signal(signal.SIGALRM, self._ask)
        left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, _INTERVAL_S, _INTERVAL_S)
        try:
            yield
        finally:
            # Somebody else's timer goes on as if nothing had been.
            waited_s = time.monotonic() - started_s
            signal.setitimer(signal.ITIMER_REAL, max(left_s - waited_s, 1e-3) if left_s else 0, interval_s)
            signal.signal(signal.SIGALRM, handler)

    def _ask(self, _: int, __: FrameType | None) -> None:
        if self._should_stop():
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.has_rung = True
            raise _ItIsTimeError
