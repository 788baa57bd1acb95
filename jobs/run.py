"""What a long job is held to, and what it leaves behind: limits of time and money, a report, log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from jobs.logs import tell, worker_logs
from jobs.phrases import count
from pipeline.errors import SettingError

if TYPE_CHECKING:
    from cluster.watch import Watch
    from jobs.progress import Shown
    from jobs.settings import Settings
    from pipeline.encode.history import History
    from pipeline.encode.job import EncodeJob
    from pipeline.job_summary import JobSummary
    from pipeline.progress import Progress

log = logging.getLogger(__name__)
STOPPED = 12
"""Exit code of a job that ended at a limit: what was committed stays, the same command goes on."""


@dataclass(slots=True)
class Supervision:
    """Of one running job."""

    history: History
    watch: Watch
    shown: Shown
    should_stop: Callable[[], bool]
    report: Path | None
    _settings: Settings
    _at_end: ExitStack

    def on_progress(self, progress: Progress) -> None:
        """Show how far the job is."""
        self.shown.progress(progress)

    def on_wait(self, what: str) -> None:
        """Say what the job does while there is no progress to show."""
        self.shown.wait(what)

    def connect(self) -> None:
        """Start Ray or join one, and watch its machines, until the job ends. A job that has nothing to do needs neither."""
        from cluster.connect import connected
        from cluster.watch import watched

        settings = self._settings
        self._at_end.enter_context(connected(settings.ray_address, runtime_env=worker_logs(settings)))
        self._at_end.enter_context(watched(watch=self.watch))

    def finish(self, summary: JobSummary, job: EncodeJob | None = None) -> None:
        """Write the report, where one is wanted, and a log line of what the job came to.

        Args:
            job: whose photos the report shows.
        """
        counts = {name: value for name, value in asdict(summary).items() if not isinstance(value, list | dict)}
        log.info("job ended", extra=counts | {"num_not_stored": len(summary.not_stored)})
        if self.report is not None:
            from jobs.examples import examples
            from jobs.report import write_report

            self.on_wait("writing the report")
            shown = examples(job, summary.examples) if job is not None else []
            write_report(self.report, summary, self.history, self.watch, shown)


@contextmanager
def supervised(settings: Settings, *, verb: str, as_json: bool, report: Path | None = None) -> Iterator[Supervision]:
    """A job that is shown and watched, and kept to its limits, for the length of a `with` block.

    Args:
        verb: what the job does, for its progress.

    Raises:
        SettingError: the report would replace other files.
    """
    from cluster.watch import Budget, Watch
    from jobs.outputs import check_report
    from jobs.progress import shown
    from pipeline.encode.history import History

    if report is not None:
        check_report(report)
    budget = Budget(max_hours=settings.max_hours, max_cost=settings.max_cost, price_per_hour=settings.price_per_hour)
    log.info("job started", extra={"command": verb})
    watch = Watch()
    with shown(verb=verb, as_json=as_json) as show, ExitStack() as at_end:
        yield Supervision(History(), watch, show, lambda: budget.is_spent(watch), report, settings, at_end)


def stopped(num_left: int | None = None) -> typer.Exit:
    """What ends a command whose job ended at a limit."""
    left = "" if num_left is None else f" with {count(num_left, 'photo')} to do"
    tell(f"stopped at the limit{left}; the same command goes on from there")
    return typer.Exit(STOPPED)


def check_limits(settings: Settings) -> None:
    """Refuse limits that cannot be kept.

    Raises:
        SettingError: a cost without a price, or several actors on one GPU and no word of its memory.
    """
    if settings.max_cost is not None and settings.price_per_hour is None:
        raise SettingError("--max-cost needs --price, of one GPU (or, without GPUs, one machine) for an hour")
    if settings.gpus_per_actor < 1 and settings.memory_gib is None:
        raise SettingError("gpus_per_actor below 1 needs memory_gib: each actor would take all memory that it finds free")
