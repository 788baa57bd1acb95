"""How far a job is, and what it waits for: a bar on a terminal, a line now and then elsewhere, JSON lines on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from jobs.logs import are_lines_on_stderr, tell
from jobs.phrases import count, duration, size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from pipeline.progress import OnStep, Progress, Step

LINE_INTERVAL_S = 5.0


class Shown(Protocol):
    """Shows one job."""

    def progress(self, progress: Progress) -> None:
        """Show how far it is."""

    def wait(self, what: str) -> None:
        """Say what it does while there is no progress to show, such as `starting Ray`."""


@contextmanager
def shown(*, verb: str, as_json: bool) -> Iterator[Shown]:
    """Show a job's progress while the `with` block runs.

    Args:
        verb: what the job does, such as `encoding`.
        as_json: print lines of JSON to standard output, of progress alone.
    """
    if as_json:
        yield _Json()
    elif sys.stderr.isatty() and not are_lines_on_stderr():
        with _bar(verb) as bar:
            yield bar
    else:
        yield _Lines(verb)


@contextmanager
def steps_shown() -> Iterator[OnStep]:
    """Show each step of a job on standard error while the `with` block runs."""
    if sys.stderr.isatty() and not are_lines_on_stderr():
        with _step_bars() as show:
            yield show
    else:
        yield _StepLines()


def rates(progress: Progress) -> tuple[float, float, float]:
    """(photos/s, MB/s, seconds left) so far."""
    elapsed_s = max(progress.elapsed_s, 1e-9)
    photos_per_s = progress.num_done / elapsed_s
    left_s = (progress.num_total - progress.num_done) / photos_per_s if photos_per_s else 0.0
    return photos_per_s, progress.bytes_done / 1e6 / elapsed_s, left_s


def _facts(progress: Progress) -> list[str]:
    photos_per_s = rates(progress)[0]
    failed = [f"{progress.num_failed:,} failed"] if progress.num_failed else []
    rate = f"{photos_per_s:.1f} photos/s" if photos_per_s >= 0.95 else f"{photos_per_s:.2g} photos/s"
    return [rate, f"{size(progress.bytes_done / max(progress.elapsed_s, 1e-9))}/s", *failed]


class _Json:
    def progress(self, progress: Progress) -> None:
        print(json.dumps({"event": "progress", **asdict(progress)}), flush=True)

    def wait(self, what: str) -> None:
        pass


class _Lines:
    def __init__(self, verb: str) -> None:
        self._verb, self._shown_at_s = verb, -LINE_INTERVAL_S

    def progress(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_at_s < LINE_INTERVAL_S and progress.num_done < progress.num_total:
            return
        self._shown_at_s = now_s
        left_s = rates(progress)[2]
        facts = [f"{self._verb} {progress.num_done:,} of {count(progress.num_total, 'photo')}", *_facts(progress)]
        tell(", ".join([*facts, f"{duration(left_s)} left"] if left_s else facts), **asdict(progress))

    def wait(self, what: str) -> None:
        tell(f"{self._verb}: {what}")


class _Bar:
    def __init__(self, verb: str, bar: Bar) -> None:
        self._bar, self._task = bar, bar.add_task(verb, total=None, text="")

    def progress(self, progress: Progress) -> None:
        text = "  ".join([f"{progress.num_done}/{progress.num_total}", *_facts(progress)])
        self._bar.update(self._task, completed=progress.num_done, total=progress.num_total, text=text)

    def wait(self, what: str) -> None:
        # At once: standard error is turned away while Ray starts.
        self._bar.update(self._task, text=what, refresh=True)


@contextmanager
def _bar(verb: str) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(verb), BarColumn(), TextColumn("{task.fields[text]}", markup=False), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(verb, bar)


class _StepLines:
    def __init__(self) -> None:
        self._stage, self._shown_at_s = "", 0.0

    def __call__(self, step: Step) -> None:
        now_s = time.monotonic()
        ends = step.num_done >= step.num_total
        if step.stage == self._stage and not ends and now_s - self._shown_at_s < LINE_INTERVAL_S:
            return
        self._stage, self._shown_at_s = step.stage, now_s
        tell(f"{step.stage}: {_amount(step)}", **asdict(step))


@contextmanager
def _step_bars() -> Iterator[OnStep]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(step: Step) -> None:
            if step.stage not in tasks:
                tasks[step.stage] = bar.add_task(step.stage, total=step.num_total, amount="")
            bar.update(tasks[step.stage], completed=step.num_done, total=step.num_total, amount=_amount(step))

        yield show


def _amount(step: Step) -> str:
    if step.unit == "bytes":
        return f"{step.num_done / 1e6:.0f} of {step.num_total / 1e6:.0f} MB"
    return f"{step.num_done} of {step.num_total} {step.unit}"
