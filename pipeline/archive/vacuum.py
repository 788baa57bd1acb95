"""Delete files of ours that the log no longer names, after a time in which older versions of it can still be read.

What delta-rs would delete is asked for, and of that only files that carry a name of ours go: its own vacuum takes every
file below the table, and an archive may lie in a bucket beside photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.archive.commit import Archive
from pipeline.archive_files import PART_NAME, SHARD_NAME
from pipeline.errors import ArchiveDamagedError, SettingError

DEFAULT_RETENTION_HOURS = 168


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumReport:
    """What was deleted, or would be."""

    paths: tuple[str, ...]
    """Relative to the archive."""
    num_bytes: int


def vacuum(archive: Archive, *, retention_hours: int = DEFAULT_RETENTION_HOURS, dry_run: bool = False) -> VacuumReport:
    """Delete shards that were replaced, or written and never committed, more than `retention_hours` ago.

    With less than an hour, no other job may run on the archive: it could lose a shard that it is about to commit. What counts
    is the store's clock, which gave the files their times: by a machine's that is ahead, such a shard would be old.

    Raises:
        SettingError: the retention is negative.
        ArchiveDamagedError: the log is, so it may not name all that it should.
        StorageError: the archive cannot be listed, or a file not deleted.
    """
    if retention_hours < 0:
        raise SettingError(f"--retention-hours {retention_hours}: give 0 or more")
    files = list(archive.storage.list())
    # After the listing: a file that was committed in between is named by the log then.
    archive.log.refresh()
    if fault := archive.log.fault():
        raise ArchiveDamagedError(f"{archive.storage.url}: {fault}; photoark verify --against SRC --repair mends it")
    now = archive.storage.now()
    free = {file.path for file in files} - {shard.path for shard in archive.shards()}
    if retention_hours:
        # delta-rs goes by this machine's clock.
        ahead_hours = round((datetime.now(UTC) - now) / timedelta(hours=1))
        free &= set(archive.log.unreferenced(max(0, retention_hours + ahead_hours)))
    going = [
        file
        for file in files
        if (file.path in free and SHARD_NAME.fullmatch(file.path)) or PART_NAME.fullmatch(file.path)
        # A shard can be written anew under the name it had; the log then tells the time it was replaced first.
        if not retention_hours or file.modified_at is None or file.modified_at <= now - timedelta(hours=retention_hours)
    ]
    if not dry_run:
        for file in going:
            archive.storage.delete(file.path)
    return VacuumReport(paths=tuple(sorted(file.path for file in going)), num_bytes=sum(file.size_bytes for file in going))
