"""How far a job is: a bar on a terminal, a line now and then elsewhere, JSON lines on request."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from jobs.logs import are_lines_on_stderr, tell

if TYPE_CHECKING:
    from pipeline.progress import OnProgress, Progress

LINE_INTERVAL_S = 5.0


@contextmanager
def shown(*, verb: str, as_json: bool) -> Iterator[OnProgress]:
    """A callback that shows progress while the `with` block runs."""
    if as_json:
        yield lambda progress: print(json.dumps({"event": "progress", **asdict(progress)}), flush=True)
    elif sys.stderr.isatty() and not are_lines_on_stderr():
        with _bar(verb) as show:
            yield show
    else:
        yield _Lines(verb)


def rates(progress: Progress) -> tuple[float, float, float]:
    """(photos/s, MB/s, seconds left) so far."""
    elapsed_s = max(progress.elapsed_s, 1e-9)
    photos_per_s = progress.num_done / elapsed_s
    left_s = (progress.num_total - progress.num_done) / photos_per_s if photos_per_s else 0.0
    return photos_per_s, progress.bytes_done / 1e6 / elapsed_s, left_s


class _Lines:
    def __init__(self, verb: str) -> None:
        self._verb, self._shown_at_s = verb, -LINE_INTERVAL_S

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_at_s < LINE_INTERVAL_S and progress.num_done < progress.num_total:
            return
        self._shown_at_s = now_s
        photos_per_s, mb_per_s, left_s = rates(progress)
        tell(
            f"{self._verb} {progress.num_done}/{progress.num_total} photos, {photos_per_s:.1f} photos/s, "
            f"{mb_per_s:.2f} MB/s, {progress.num_failed} failed, {left_s:.0f} s left",
            **asdict(progress),
        )


@contextmanager
def _bar(verb: str) -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(verb), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=None, rate="")

        def show(progress: Progress) -> None:
            photos_per_s, mb_per_s, _ = rates(progress)
            rate = f"{photos_per_s:.1f} photos/s  {mb_per_s:.2f} MB/s  {progress.num_failed} failed"
            bar.update(task, completed=progress.num_done, total=progress.num_total, rate=rate)

        yield show
