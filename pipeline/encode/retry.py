"""Encode again what failed.

rows that failed -> their photos, as the source has them now -> as in encode -> each new row takes the old one's place
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pipeline.archive.reader import Archive, read_rows
from pipeline.archive.versions import reason_of
from pipeline.archive.writer import ArchiveWriter
from pipeline.encode.changes import Work
from pipeline.encode.history import History
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import process
from pipeline.job_summary import JobSummary
from pipeline.progress import Clock, OnProgress, OnWait
from pipeline.records import EncodedPhoto, Outcome
from pipeline.sources.folder import list_source

log = logging.getLogger(__name__)


def failures(archive: Archive) -> dict[str, str]:
    """Key -> reason of every row that failed; in the order of the shards, so that a commit changes few of them.

    Raises:
        ArchiveDamagedError: a shard is missing or damaged.
    """
    rows = read_rows(archive, columns=["reason"])
    return {row.key: reason_of(row) for row in rows if row.outcome is Outcome.FAILED}


def retry(
    job: EncodeJob,
    on_progress: OnProgress = lambda _: None,
    *,
    on_wait: OnWait = lambda _: None,
    history: History | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    connect: Callable[[], object] = lambda: None,
) -> JobSummary:
    """Encode every photo whose row in `job.archive` says that it failed, and that `job.source` still has and selects.

    A commit takes the shard with the old row out and one with the new row in; a job that dies in between leaves the old
    row, and the same job run again goes on. What fails again for the same reason keeps its row. Where the source no longer has
    the file, nothing is left to store, and the row is taken out; but not if the source has no file of the archive at all, as
    where a disk is not mounted.

    Args:
        on_wait, history, should_stop, connect: as for `pipeline.encode.run.encode`. What failed again before a stop is
            tried again next time.

    Returns:
        Totals; `num_photos` are all that had failed, `num_skipped` those of them that the source no longer has, and
        `gone_failures` those whose rows were taken out.

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveNotFoundError: there is no archive.
        ArchiveDamagedError: a shard is missing or damaged.
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    clock = Clock()
    job.check_settings()
    archive = ArchiveWriter.open(job.archive)
    on_wait(f"listing {job.source}")
    listing = list_source(job.source, job.selection)
    photos = {photo.key: photo for photo in listing.photos}
    on_wait("looking for failures in the archive")
    reasons = {key: reason for key, reason in failures(archive).items() if key in photos or listing.lacks(key)}

    def commit(rows: list[EncodedPhoto]) -> None:
        changed = [row for row in rows if row.outcome is not Outcome.FAILED or row.reason != reasons[row.key]]
        if changed:
            archive.put(changed)

    gone = {key: reason for key, reason in reasons.items() if key not in photos}
    if gone and archive.keys().isdisjoint(photos):
        gone = {}
    archive.drop_failures(gone.keys())
    not_stored = {key: reason for key, reason in reasons.items() if key not in gone}
    work = Work(todo={key: photos[key] for key in reasons if key in photos}, not_stored=not_stored)
    num_todo = len(work.todo)
    log.info("listed", extra={"stage": "list", "num_photos": len(reasons), "num_todo": num_todo})
    summary = process(
        job, work, commit, on_progress, on_wait=on_wait, history=history, should_stop=should_stop, connect=connect
    )  # fmt: skip
    summary.num_photos, summary.num_skipped, summary.elapsed_s = len(reasons), len(reasons) - num_todo, clock.elapsed_s
    summary.skipped, summary.gone_failures = listing.skipped, gone
    return summary
