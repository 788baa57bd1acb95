"""A stream that ends early when it is time to stop, also while nothing comes: machines may be long in coming, or never come.

Who makes the stream asks, and ends it: Ray Data's own loop (several times a second), and `isolation`. An exception that a
signal raises in the midst of Ray Data, while it starts or ends, leaves threads of it behind; one of them that asks Ray for
something when Ray is gone ends the process with exit code 1 and without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.interrupt import Interrupt

T = TypeVar("T")


class TimeIsUpError(Exception):
    """It was time to stop while the next item was awaited."""


def until(should_stop: Callable[[], bool], stream: Iterator[T]) -> Iterator[T]:
    """`stream`, until `should_stop`, which is asked after each item and while the next is awaited.

    What was on its way when it says so does not come. Ctrl-C and SIGTERM stop it likewise (`Interrupt.held_back`); a second
    one stops it at once.

    Args:
        stream: calls `raise_if_over` while it waits, in the thread that asks it for items, or is Ray Data's, in a context with
            `StopCallback`.

    Raises:
        KeyboardInterrupt: Ctrl-C, in the main thread; `stream` has ended.
        Terminated: SIGTERM, likewise.
    """
    interrupt = Interrupt()

    def is_over() -> bool:
        return interrupt.has_come or should_stop()

    while True:
        token = _is_over.set(is_over)
        try:
            with interrupt.held_back():
                item = next(stream)
        except (StopIteration, TimeIsUpError):
            return
        finally:
            _is_over.reset(token)
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
