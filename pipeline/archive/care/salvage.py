"""A new archive out of the shards of one whose log is lost: the log says which rows count, and without it the rows must.

    every shard -> its rows -> of each key the best row -> a new archive, which alone is written to

Rows that were replaced are still there until `vacuum`; the one that was encoded last counts, a photo before a failure, and what
is proved before what is not. Shards that a job wrote and never committed serve as well: what they hold is sound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from pipeline.archive.care.shard_check import DamageKind, check_shard
from pipeline.archive.log import ShardInfo
from pipeline.archive.references import holds, resolved
from pipeline.archive.schema import SHARD_BYTES
from pipeline.archive.shard_reader import GREATEST_KEY
from pipeline.archive.shard_writer import row_bytes
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveNotFoundError, SettingError
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.archive_files import SHARD_NAME
from pipeline.storage.base import Storage

_LOST = frozenset((DamageKind.BYTES, DamageKind.UNREADABLE, DamageKind.MISSING))
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvageReport:
    """What came out."""

    num_shards: int
    num_rows: int
    """In the new archive."""
    num_superseded: int
    """Rows that were left, because their key has a better one."""
    damaged: tuple[tuple[str, str], ...]
    """Path of a shard, and what of it could not be read."""
    doubtful: tuple[str, ...]
    """Keys whose rows come from a shard that is hurt where no checksum tells what depends on it."""
    lost: tuple[str, ...]
    """Keys of rows that share a stream which is in no shard."""
    num_failed: int = 0
    """Of `num_rows`, failures: nothing of their files was stored."""

    @property
    def is_complete(self) -> bool:
        """Whether all that there was is in the new archive, proved."""
        return not (self.damaged or self.doubtful or self.lost)


def salvage(storage: Storage, new_url: str) -> SalvageReport:
    """Write the best row of every key in the shards below `storage` into the archive at `new_url`; nothing else is written.

    The same call again goes on where it stopped. One shard is in memory at a time, and of each row about 300 bytes.

    Raises:
        ArchiveNotFoundError: there is no such folder, or no shard in it.
        SettingError: the new archive would lie among the shards.
        ArchiveError: the new one can be neither opened nor made.
        StorageError: the shards cannot be listed, or the new ones not written.
    """
    new = Storage(new_url)
    if new.url == storage.url or (new.is_local and os.path.realpath(new.url) == os.path.realpath(storage.url)):
        raise SettingError("the new archive must lie elsewhere: nothing is changed in a damaged one")
    if not storage.is_folder():
        raise ArchiveNotFoundError(f"{storage.url} does not exist, or is not a folder: name the folder that holds the shards")
    shards = [_unlogged(file.path, file.size_bytes) for file in storage.list() if SHARD_NAME.fullmatch(file.path)]
    if not shards:
        raise ArchiveNotFoundError(f"{storage.url} holds no shards (photos-*.parquet)")
    best, damaged, num_read = _choose(storage, shards)
    archive = ArchiveWriter.open_or_create(new_url)
    references = _move(storage, shards, best, archive)
    lost = _refer(storage, shards, references, archive)
    return SalvageReport(
        num_shards=len(shards),
        num_rows=len(best) - len(lost),
        num_superseded=num_read - len(best),
        damaged=tuple(damaged),
        doubtful=tuple(sorted(key for key, row in best.items() if not row.rank.is_proved)),
        lost=tuple(sorted(lost)),
        num_failed=sum(not row.rank.is_photo for row in best.values()),
    )


class _Rank(NamedTuple):
    """What makes one row of a key better than another, most important first."""

    is_photo: bool
    is_proved: bool
    encoded_at: datetime
    is_holder: bool
    """When a stream was handed down, the row that inherited it kept the time of the one that referred to it."""
    modified_at: datetime


class _Best(NamedTuple):
    rank: _Rank
    path: str


def _choose(storage: Storage, shards: list[ShardInfo]) -> tuple[dict[str, _Best], list[tuple[str, str]], int]:
    best: dict[str, _Best] = {}
    damaged: list[tuple[str, str]] = []
    num_read = 0
    for shard in shards:
        found = check_shard(storage, shard)
        damaged += [(shard.path, damage.what) for damage in found.damages if damage.kind in _LOST]
        for rows, is_proved in ((found.rows, True), (found.doubtful_rows, False)):
            num_read += len(rows)
            for row in rows:
                times = row.encoded_at or _LONG_AGO, row.modified_at or _LONG_AGO
                rank = _Rank(row.outcome is not Outcome.FAILED, is_proved, times[0], row.same_as is None, times[1])
                if row.key not in best or rank > best[row.key].rank:
                    best[row.key] = _Best(rank, shard.path)
    return best, damaged, num_read


def _move(storage: Storage, shards: list[ShardInfo], best: dict[str, _Best], archive: ArchiveWriter) -> list[EncodedPhoto]:
    """Commit the best rows that have their stream, and return those that share one."""
    references: list[EncodedPhoto] = []
    waiting: list[EncodedPhoto] = []
    size_bytes = 0
    for row, path in _rows(storage, shards):
        if best[row.key].path != path:
            continue
        if row.same_as is not None:
            references.append(row)
            continue
        waiting.append(row)
        size_bytes += row_bytes(row)
        if size_bytes >= SHARD_BYTES:
            archive.commit(waiting)
            waiting, size_bytes = [], 0
    archive.commit(waiting)
    return references


def _refer(storage: Storage, shards: list[ShardInfo], references: list[EncodedPhoto], archive: ArchiveWriter) -> set[str]:
    """Commit rows that share a stream, with whichever row has it now; returns the keys of those for which none does."""
    wanted = {row.source_sha256 for row in references if row.source_sha256 is not None}
    holders = {row.source_sha256: row.key for row in archive.sources() if holds(row, row.source_sha256)} if wanted else {}
    if lacking := wanted - holders.keys():
        # Its row has another stream by now, and nobody had inherited this one: a row that was replaced may still have it.
        heir = {row.source_sha256: row for row in reversed(references) if row.source_sha256 in lacking}
        for old, _ in _rows(storage, shards):
            if old.source_sha256 in heir and holds(old, old.source_sha256):
                row = heir.pop(old.source_sha256)
                archive.commit([replace(resolved(row, old), same_as=None)])
                holders[row.source_sha256] = row.key
    keys = {row.key for row in references}
    found = [
        replace(row, same_as=holders[row.source_sha256])
        for row in references
        if row.source_sha256 in holders and holders[row.source_sha256] != row.key
    ]
    if found:
        archive.refer(found)
    return keys - {row.key for row in found} - set(holders.values())


def _rows(storage: Storage, shards: list[ShardInfo]) -> Iterator[tuple[EncodedPhoto, str]]:
    for shard in shards:
        found = check_shard(storage, shard)
        for row in found.rows + found.doubtful_rows:
            yield row, shard.path


def _unlogged(path: str, size_bytes: int) -> ShardInfo:
    return ShardInfo(path=path, size_bytes=size_bytes, num_rows=-1, least_key="", greatest_key=GREATEST_KEY)
