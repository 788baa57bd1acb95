"""Ctrl-C, held back while it would do harm: what it raises in the midst of Ray leaves behind what can end the process later."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Notes Ctrl-C for a while, instead of Python's own handler."""

    def __init__(self) -> None:
        self.has_come = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Note it while the block runs, and raise it at the end; pressed a second time, at once.

        Only in the main thread, to which signals come, and where Python's own handler would have taken it.

        Raises:
            KeyboardInterrupt: it has come, whatever else ended the block.
        """
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.has_come:
                raise KeyboardInterrupt from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.has_come:
            signal.default_int_handler(number, frame)
        self.has_come = True
