"""What a long job is held to, and what it leaves behind: limits of time and money, and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SettingError

if TYPE_CHECKING:
    from cluster.watch import Watch
    from jobs.settings import Settings
    from pipeline.stages.history import History
    from pipeline.stages.job import JobSummary

STOPPED = 12
"""Exit code of a job that ended at a limit: what was committed stays, the same command goes on."""


@dataclass(slots=True)
class Supervision:
    """Of one running job."""

    history: History
    watch: Watch
    should_stop: Callable[[], bool]
    report: Path | None

    def finish(self, summary: JobSummary) -> None:
        """Write the report, where one is wanted."""
        if self.report is not None:
            from jobs.report import write_report

            write_report(self.report, summary, self.history, self.watch)


@contextmanager
def supervised(settings: Settings, report: Path | None) -> Iterator[Supervision]:
    """For the length of a `with` block, in which Ray is connected."""
    from cluster.watch import Budget, watched
    from pipeline.stages.history import History

    budget = Budget(max_hours=settings.max_hours, max_cost=settings.max_cost, price_per_hour=settings.price_per_hour)
    with watched() as watch:
        yield Supervision(History(), watch, lambda: budget.is_spent(watch), report)


def check_limits(settings: Settings) -> None:
    """Refuse limits that cannot be kept.

    Raises:
        SettingError: a cost without a price, or several actors on one GPU and no word of its memory.
    """
    if settings.max_cost is not None and settings.price_per_hour is None:
        raise SettingError("--max-cost needs --price, of one GPU (or, without GPUs, one machine) for an hour")
    if settings.gpus_per_actor < 1 and settings.memory_gib is None:
        raise SettingError("gpus_per_actor below 1 needs memory_gib: each actor would take all memory that it finds free")
