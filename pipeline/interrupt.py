"""Ctrl-C and SIGTERM, held back while they would do harm: an exception in the midst of Ray can end the process later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM has come; the process ends with 143, as a shell reports it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Python handles Ctrl-C: raise, so that everything on the way out is closed.

    Raises:
        Terminated: always.
    """
    raise Terminated


_RAISING = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: raise_terminated}
"""The handlers that may be held back, since all they do is raise."""


class Interrupt:
    """Notes Ctrl-C and SIGTERM for a while, instead of raising at once."""

    def __init__(self) -> None:
        self._first: int | None = None

    @property
    def has_come(self) -> bool:
        """Whether a signal was noted."""
        return self._first is not None

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Note signals while the block runs, and raise the first at the end; a second one is raised at once.

        Only in the main thread, which receives signals, and only for signals whose handler raises: Python's own for Ctrl-C,
        and `raise_terminated` for SIGTERM. Handlers that the block itself installs are replaced by these at its end.

        Raises:
            KeyboardInterrupt: Ctrl-C has come, whatever else ended the block.
            Terminated: SIGTERM has come, likewise.
        """
        is_main = threading.current_thread() is threading.main_thread()
        ours = [number for number, handler in _RAISING.items() if is_main and signal.getsignal(number) is handler]
        for number in ours:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, _RAISING[number])
            if self._first is not None:
                raise (Terminated if self._first == signal.SIGTERM else KeyboardInterrupt) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._first is not None:
            _RAISING[signal.Signals(number)](number, frame)
        self._first = number
