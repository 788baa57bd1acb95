"""How far a long job is, for whoever shows it. Imports nothing, so that showing it loads nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    num_done: int
    num_total: int
    num_failed: int
    bytes_done: int
    """Of source files when encoding or evaluating, of restored files when decoding."""
    elapsed_s: float


OnProgress = Callable[[Progress], None]
OnWait = Callable[[str], None]
"""Is told in words what a job does before there is progress to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far one step of a job of several is."""

    stage: str
    """What is done, such as `calibrating`."""
    num_done: int
    num_total: int
    unit: str
    """What is counted: photos, bytes."""


OnStep = Callable[[Step], None]


def ignore_step(step: Step) -> None:
    """Show nothing."""


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start
