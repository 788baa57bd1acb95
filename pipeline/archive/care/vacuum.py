"""Delete files of ours that the log no longer names, after a time in which older versions of it can still be read.

`vacuum_replaced` does not wait: then `photos-*.parquet` are just the shards that count.

What delta-rs would delete is asked for, and of that only files that carry a name of ours go: its own vacuum takes every
file below the table, and an archive may lie in a bucket beside photos.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError, SettingError
from pipeline.storage.archive_files import PART_NAME, SHARD_NAME
from pipeline.storage.base import StoredFile

DEFAULT_RETENTION_HOURS = 168
UNCOMMITTED_HOURS = 1
"""After which a shard that nobody committed is taken for that of a job that died."""
_COMMIT_NAME = re.compile(r"_delta_log/\d{20}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumReport:
    """What was deleted, or would be."""

    paths: tuple[str, ...]
    """Relative to the archive."""
    num_bytes: int
    left: tuple[str, ...] = ()
    """Files that no version of the log names and that are too young to be deleted: another job may be about to commit them."""


def vacuum(archive: ArchiveWriter, *, retention_hours: int = DEFAULT_RETENTION_HOURS, dry_run: bool = False) -> VacuumReport:
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
    files, free = _free_files(archive)
    now = archive.storage.now()
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
    return _delete(archive, going, dry_run=dry_run)


def vacuum_replaced(archive: ArchiveWriter, *, merged: Iterable[Sequence[str]] = (), dry_run: bool = False) -> VacuumReport:
    """Delete shards that were replaced, however short ago, and those that nobody committed within an hour.

    Writers may run meanwhile: what they are about to commit is younger than that, and if a shard that they need is gone, they
    read the log again. Readers of an older version of the log, such as a job that decodes, find shards missing.

    Args:
        merged: paths of shards that the caller replaced, or, for a trial without writing, would replace.

    Raises:
        ArchiveDamagedError: the log is, so it may not name all that it should.
        StorageError: the archive cannot be listed or its log not be read, or a file not deleted.
    """
    files, free = _free_files(archive)
    ours = set().union(*merged)
    old = archive.storage.now() - timedelta(hours=UNCOMMITTED_HOURS)
    replaced_at = _replaced_at(archive, files, since=old)
    going: list[StoredFile] = []
    left: list[StoredFile] = []
    for file in files:
        is_shard = file.path in free and SHARD_NAME.fullmatch(file.path) is not None
        # A shard that was written anew under the name it had is about to be committed.
        last_used = max(old, replaced_at.get(file.path, old))
        is_old = file.modified_at is not None and file.modified_at < last_used
        if (file.path in ours and (is_shard or dry_run)) or ((is_shard or PART_NAME.fullmatch(file.path)) and is_old):
            going.append(file)
        elif is_shard:
            left.append(file)
    return replace(_delete(archive, going, dry_run=dry_run), left=tuple(sorted(file.path for file in left)))


def _replaced_at(archive: ArchiveWriter, files: Iterable[StoredFile], *, since: datetime) -> dict[str, datetime]:
    """Path of each shard that a commit took out -> when, by the store's clock; of commits after `since`."""
    times: dict[str, datetime] = {}
    for file in files:
        if not _COMMIT_NAME.fullmatch(file.path) or file.modified_at is None or file.modified_at <= since:
            continue
        for line in archive.storage.read(file.path).splitlines():
            if line.startswith(b'{"remove"'):
                path = json.loads(line)["remove"]["path"]
                times[path] = max(times.get(path, file.modified_at), file.modified_at)
    return times


def _free_files(archive: ArchiveWriter) -> tuple[list[StoredFile], set[str]]:
    """Every file of the archive, and the paths of those that the log does not name."""
    files = list(archive.storage.list())
    # After the listing: a file that was committed in between is named by the log then.
    archive.log.refresh()
    if fault := archive.log.fault():
        raise ArchiveDamagedError(f"{archive.storage.url}: {fault}; photoark verify --against SRC --repair mends it")
    return files, {file.path for file in files} - {shard.path for shard in archive.shards()}


def _delete(archive: ArchiveWriter, files: Sequence[StoredFile], *, dry_run: bool) -> VacuumReport:
    if not dry_run:
        for file in files:
            archive.storage.delete(file.path)
    return VacuumReport(paths=tuple(sorted(file.path for file in files)), num_bytes=sum(file.size_bytes for file in files))
