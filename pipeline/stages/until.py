"""A stream that ends early when it is time to stop, also while nothing comes: machines may be long in coming, or never come.

Who makes the stream asks, and ends it: Ray Data's own loop (several times a second), and `isolation`. An exception that a
signal raises in the midst of Ray Data, while it starts or ends, leaves threads of it behind; one of them that asks Ray for
something when Ray is gone ends the process with exit code 1 and without a word.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import TypeVar

from ray.data._internal.execution.execution_callback import ExecutionCallback

T = TypeVar("T")


class TimeIsUpError(Exception):
    """It was time to stop while the next item was awaited."""


def until(should_stop: Callable[[], bool], stream: Iterator[T]) -> Iterator[T]:
    """`stream`, until `should_stop`, which is asked after each item and while the next is awaited.

    What was on its way when it says so does not come. Ctrl-C stops likewise, where Python's own handler would have taken it;
    pressed twice, at once.

    Args:
        stream: calls `raise_if_over` while it waits, in the thread that asks it for items, or is Ray Data's, in a context with
            `StopCallback`.

    Raises:
        KeyboardInterrupt: Ctrl-C, in the main thread; `stream` has ended.
    """
    interrupt = _Interrupt()

    def is_over() -> bool:
        return interrupt.has_come or should_stop()

    while True:
        token = _is_over.set(is_over)
        try:
            with interrupt.held():
                item = next(stream)
        except (StopIteration, TimeIsUpError):
            if interrupt.has_come:
                raise KeyboardInterrupt from None
            return
        finally:
            _is_over.reset(token)
        if interrupt.has_come:
            raise KeyboardInterrupt
        yield item
        if should_stop():
            return


_is_over: ContextVar[Callable[[], bool]] = ContextVar("is_over", default=lambda: False)


def raise_if_over() -> None:
    """Let the stream that is being asked for an item end, if it is time.

    Raises:
        TimeIsUpError: it is.
    """
    if _is_over.get()():
        raise TimeIsUpError


class StopCallback(ExecutionCallback):
    """Lets Ray Data ask the `until` that its stream was first asked in."""

    def __init__(self) -> None:
        self._is_over = _is_over.get()

    def on_execution_step(self, executor: object) -> None:
        """End the stream, if it is time: what is raised here, in Ray Data's thread, comes out where the next item would."""
        if self._is_over():
            raise TimeIsUpError


class _Interrupt:
    """Ctrl-C, noted instead of raised."""

    def __init__(self) -> None:
        self.has_come = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only note it, the first time that it comes in this block."""
        # Signals come to the main thread alone, and what somebody else does with them is theirs.
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.has_come:
            signal.default_int_handler(number, frame)
        self.has_come = True
