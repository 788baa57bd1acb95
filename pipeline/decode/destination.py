"""What a decode job finds at its destination: files that it wrote before, files of others, and perhaps an archive."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta

from pipeline.archive.reader import Archive, Fragment, find, read_fragment
from pipeline.decode.job import DecodeJob
from pipeline.errors import ArchiveDamagedError, ArchiveError, SettingError
from pipeline.records import EncodedPhoto, Outcome, encoded_from_table
from pipeline.storage.archive_files import SHARD_NAME, archive_among, archive_around
from pipeline.storage.base import Storage, Taken
from pipeline.storage.names import flat_path, may_be_escaped, restored_path

_COLUMNS = ("key", "outcome", "modified_at", "encoded_at")


def written_before(job: DecodeJob, archive: Archive, fragments: Iterable[Fragment]) -> dict[Fragment, frozenset[str]]:
    """Look at the destination of `job`: which keys of which fragments it need not write, because it did so before.

    The destination is listed once, and keys are read only of shards that may hold that of a file there.

    Raises:
        SettingError: the destination is a file, or in a bucket that does not exist; it is, holds or lies in an archive; a
            folder of it that the job would write to is a link; or other files are where the job would write, and it was not
            told to replace them.
    """
    storage = Storage(job.destination)
    if file := storage.file_in_the_way():
        raise SettingError(f"{storage.uri('')} cannot be written to: {file} is a file; name a folder")
    if not storage.has_bucket():
        raise SettingError(f"{storage.uri('')} cannot be written to: there is no such bucket; check its name, or make it")
    taken = storage.taken()
    check_outside_archives(storage, [path for path in taken if not _is_restored_shard(archive, path)])
    there: dict[Fragment, frozenset[str]] = {}
    others: list[str] = []
    links = frozenset(path for path, entry in taken.items() if entry.is_linked_folder)
    if job.overwrite and not job.resume and not links:
        return there
    shards = _shards_with(taken, links, archive)
    for fragment in fragments:
        if fragment.path not in shards:
            continue
        with suppress(ArchiveDamagedError):  # reported where its photos are read
            rows = _to_write(job, archive, fragment)
            _check_links(storage, links, rows)
            found = _found(rows, taken)
            own = frozenset(row.key for row, at in found if job.resume and _is_of(row, at, is_local=storage.is_local))
            there[fragment] = own
            others += [row.key for row, _ in found if row.key not in own]
    if others and not job.overwrite:
        raise SettingError(_refusal(job, storage, others))
    return there


def failed_rows(job: DecodeJob, archive: Archive, fragments: Iterable[Fragment]) -> dict[Fragment, list[EncodedPhoto]]:
    """Rows of which nothing was stored, so that nothing can be restored: a job with no others to do need not start Ray."""
    failed = {}
    for fragment in fragments:
        with suppress(ArchiveDamagedError):  # reported where its photos are read
            rows = encoded_from_table(read_fragment(archive.storage, fragment, ("key", "outcome", "reason")))
            failed[fragment] = [row for row in rows if row.outcome is Outcome.FAILED and job.patterns.takes(row.key)]
    return failed


def _is_restored_shard(archive: Archive, path: str) -> bool:
    """Whether a file looks like a shard and is one that a source held: a lone shard is a file like others there."""
    if not SHARD_NAME.fullmatch(path.rpartition("/")[2]):
        return False
    try:
        find(archive, path)
    except ArchiveError:
        return False
    return True


def check_outside_archives(storage: Storage, taken: Iterable[str]) -> None:
    """Check that files can be put into a folder without ending up among those of an archive.

    Raises:
        SettingError: the folder is, holds or lies in an archive.
    """
    if found := archive_among(storage, taken) or archive_around(storage):
        raise SettingError(f"{storage.uri('')} is, holds or lies in an archive ({found}): name another folder for the files")


def _check_links(storage: Storage, links: Collection[str], rows: Iterable[EncodedPhoto]) -> None:
    """Check that no row is restored to a path behind one of the linked folders `links`."""
    for path in (restored_path(row.key) for row in rows if links):
        for folder in (path[: match.start()] for match in re.finditer("/", path)):
            if folder in links:
                raise SettingError(
                    f"{storage.uri(folder)} is a link, and files are not written through links: put a folder in its place, or "
                    "name another folder for the files"
                )


def _shards_with(taken: Collection[str], links: Collection[str], archive: Archive) -> set[str]:
    """Paths of shards that may hold the key of a file at one of the paths `taken`, or behind one of `links`."""
    shards = archive.shards() if taken else []
    if any(map(may_be_escaped, taken)):
        return {shard.path for shard in shards}
    in_order = sorted(taken)

    def may_hold(least: str, greatest: str) -> bool:
        i = bisect_left(in_order, least)
        is_taken = i < len(in_order) and in_order[i] <= greatest
        # "0" follows "/".
        return is_taken or any(f"{link}/" <= greatest and least < f"{link}0" for link in links)

    return {shard.path for shard in shards if may_hold(shard.least_key, shard.greatest_key)}


def _to_write(job: DecodeJob, archive: Archive, fragment: Fragment) -> list[EncodedPhoto]:
    """Rows of which `job` writes files."""
    rows = encoded_from_table(read_fragment(archive.storage, fragment, _COLUMNS))
    return [row for row in rows if row.outcome is not Outcome.FAILED and job.patterns.takes(row.key)]


def _found(rows: Iterable[EncodedPhoto], taken: Mapping[str, Taken]) -> list[tuple[EncodedPhoto, datetime | None]]:
    """Those of `rows` at whose paths there is something already, and when that changed."""
    found, may_be_flat = [], any(map(may_be_escaped, taken))
    for row in rows:
        for path in (restored_path(row.key), *((flat_path(row.key),) if may_be_flat else ())):
            if path in taken:
                found.append((row, taken[path].modified_at))
                break
    return found


def _is_of(row: EncodedPhoto, written_at: datetime | None, *, is_local: bool) -> bool:
    """Whether a file at the path of `row` is one that a decode wrote."""
    if is_local and row.modified_at is not None:
        # Versions before this one wrote times up to a microsecond too early.
        return written_at is not None and timedelta(0) <= row.modified_at - written_at <= timedelta(microseconds=1)
    return row.encoded_at is not None and written_at is not None and written_at > row.encoded_at


def _refusal(job: DecodeJob, storage: Storage, others: list[str]) -> str:
    if len(others) == 1:
        what = f"{others[0]} is in {storage.uri('')} already"
    else:
        what = f"{len(others)} of the files, {min(others)} the first, are in {storage.uri('')} already"
    if job.resume:
        return f"{what}, and not of this job: --overwrite replaces what is there, or name another folder"
    return f"{what}: --resume goes on after an earlier decode, --overwrite replaces what is there, or name another folder"
