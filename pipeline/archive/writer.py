"""Writing an archive: a Delta table whose Parquet files we write and whose log (`log`) delta-rs owns.

A shard counts once the log names it. Commits carry an application transaction: of two writers that raced, delta-rs lets
one through; the other reads what is new, drops the keys that are there (unless its own rows are of a newer version of the
source), and tries again. So a key never appears twice, and a process that dies leaves at most a file that nothing refers to.
Rows that change are written with their neighbours into a new shard, and one commit takes the old shard out and the new one in:
every version of the log holds each key once.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from pipeline.archive.log import LogWriter
from pipeline.archive.reader import Archive
from pipeline.archive.references import heirs, holds, instead, reference
from pipeline.archive.shard_reader import read_columns, read_shard
from pipeline.archive.shard_writer import write_shard
from pipeline.archive.versions import SOURCE_COLUMNS, SourceVersion, takes_place, version_of
from pipeline.errors import ArchiveDamagedError, ArchiveError
from pipeline.records import ARCHIVE_SCHEMA, BLOB_COLUMNS, EncodedPhoto, Outcome
from pipeline.storage.base import Storage

log = logging.getLogger(__name__)
_MAX_TRIES = 20
_NOTHING_SEEN: Mapping[str, SourceVersion] = MappingProxyType({})
_NARROW_COLUMNS = tuple(name for name in ARCHIVE_SCHEMA.names if name not in BLOB_COLUMNS)


class ArchiveWriter(Archive):
    """An archive at a URL, opened to read and to write."""

    log: LogWriter

    def __init__(self, storage: Storage, log: LogWriter) -> None:
        super().__init__(storage, log)

    @classmethod
    def open(cls, url: str) -> ArchiveWriter:
        """Open an archive.

        Raises:
            ArchiveNotFoundError: there is none.
            ArchiveError: it cannot be opened.
        """
        storage = Storage(url)
        return cls(storage, LogWriter(storage))

    @classmethod
    def open_or_create(cls, url: str) -> ArchiveWriter:
        """Open an archive, or make an empty one; add the columns that the schema of an earlier version lacks.

        Raises:
            ArchiveError: it can be neither opened nor made.
        """
        storage = Storage(url)
        return cls(storage, LogWriter.open_or_create(storage))

    def commit(
        self,
        rows: Sequence[EncodedPhoto],
        *,
        seen: Mapping[str, SourceVersion] = _NOTHING_SEEN,
        outrun: dict[str, EncodedPhoto] | None = None,
    ) -> int:
        """Add `rows` in one commit; which one stays where a key is there already, `takes_place` says.

        Args:
            rows: one that is the same as itself only hands on what it tells of its source.
            seen: versions of rows in the archive, as the caller found them when it began to work on what replaces them.
            outrun: takes up the rows of other writers that came after `seen` and stay in the place of some of `rows`.

        Returns:
            How many rows went in.

        Raises:
            ArchiveDamagedError: the log is, or a shard that has to be read.
            ArchiveError: other writers won every try.
            StorageError: a shard or the log cannot be written.
        """
        started_s = time.perf_counter()
        for i in range(_MAX_TRIES):
            self.log.refresh()
            with self._unless_outrun():
                wanted, is_new, others = self._wanted(rows, seen)
                if not wanted or self._insert(wanted, is_new=is_new):
                    self._tell(len(wanted), i + 1, started_s)
                    if outrun is not None:
                        outrun.update(others)
                    return len(wanted)
        raise self._outrun()

    def refer(
        self,
        rows: Sequence[EncodedPhoto],
        *,
        seen: Mapping[str, SourceVersion] = _NOTHING_SEEN,
        outrun: dict[str, EncodedPhoto] | None = None,
    ) -> list[EncodedPhoto]:
        """Let each of `rows` share the stream of the row that it is the same as, in one commit.

        Args:
            rows: with key, source and `same_as`; all else is filled in.
            seen, outrun: as for `commit`.

        Returns:
            Those for which there is no row with such a stream, or not yet.

        Raises:
            As `commit`.
        """
        started_s = time.perf_counter()
        for i in range(_MAX_TRIES):
            self.log.refresh()
            with self._unless_outrun():
                ready, waiting = self._referring(rows)
                wanted, is_new, others = self._wanted(ready, seen)
                if not wanted or self._insert(wanted, is_new=is_new):
                    self._tell(len(wanted), i + 1, started_s)
                    if outrun is not None:
                        outrun.update(others)
                    return waiting
        raise self._outrun()

    def put(self, rows: Sequence[EncodedPhoto], *, drop: Collection[str] = (), ignore: Collection[str] = ()) -> None:
        """Let `rows` take the place of every row of their keys, in one commit; a key that is nowhere yet is added.

        Args:
            rows: one a key.
            drop: shards that leave the log with all their rows, unread.
            ignore: shards that are not looked into, because they are damaged.

        Raises:
            ArchiveDamagedError: a shard that has to be read is missing or damaged, or the log is.
            ArchiveError: other writers won every try.
            StorageError: a shard or the log cannot be written.
        """
        started_s = time.perf_counter()
        for i in range(_MAX_TRIES):
            self.log.refresh()
            with self._unless_outrun():
                if self._replace({row.key: row for row in rows}, drop=drop, ignore=ignore):
                    self._tell(len(rows), i + 1, started_s)
                    return
        raise self._outrun()

    def drop_failures(self, keys: Collection[str]) -> None:
        """Take those rows of `keys` out that are failures, in one commit.

        Raises:
            As `put`.
        """
        for _ in range(_MAX_TRIES):
            self.log.refresh()
            with self._unless_outrun():
                dropped, written = [], []
                for shard in self.shards():
                    if self._keys_of(shard).isdisjoint(keys):
                        continue
                    rows = read_shard(self.storage, shard.path)
                    left = [row for row in rows if row.key not in keys or row.outcome is not Outcome.FAILED]
                    if len(left) < len(rows):
                        dropped.append(shard.path)
                        written += [write_shard(self.storage, left)] if left else []
                if not dropped or self.log.swap(dropped, written):
                    return
        raise self._outrun()

    @contextmanager
    def _unless_outrun(self) -> Iterator[None]:
        """Pass over damage if others have committed: `optimize --vacuum` deletes shards as soon as they are replaced."""
        version = self.log.version
        try:
            yield
        except ArchiveDamagedError:
            if not self.has_moved_on(version):
                raise

    def _referring(self, rows: Sequence[EncodedPhoto]) -> tuple[list[EncodedPhoto], list[EncodedPhoto]]:
        """Those of `rows` that are the same as a row with a stream, filled in, and the others."""
        holders = self._rows_of({row.same_as for row in rows if row.same_as is not None}, _NARROW_COLUMNS)
        changing = {row.key for row in rows}
        ready: list[EncodedPhoto] = []
        waiting: list[EncodedPhoto] = []
        for row in rows:
            holder = None if row.same_as is None or row.same_as in changing else holders.get(row.same_as)
            if holder is not None and holds(holder, row.source_sha256):
                ready.append(reference(row, holder))
            else:
                waiting.append(row)
        return ready, waiting

    def _wanted(
        self, rows: Iterable[EncodedPhoto], seen: Mapping[str, SourceVersion]
    ) -> tuple[dict[str, EncodedPhoto], bool, dict[str, EncodedPhoto]]:
        """Those of `rows` that are to go in, by key; whether none of them has a row yet; others' rows that stay instead."""
        new = {row.key: row for row in rows}
        there = self._rows_of(new.keys(), SOURCE_COLUMNS)
        wanted = {
            key: row
            for key, row in new.items()
            if (takes_place(row, there[key], seen.get(key)) if key in there else row.same_as != key)
        }
        others = {key: row for key, row in there.items() if key not in wanted and version_of(row) != seen.get(key)}
        return wanted, there.keys().isdisjoint(wanted), others

    def _rows_of(self, keys: Iterable[str], columns: Sequence[str]) -> dict[str, EncodedPhoto]:
        in_order = sorted(keys)
        found: dict[str, EncodedPhoto] = {}
        for shard in self.shards():
            i = bisect_left(in_order, shard.least_key)
            # `swap` makes sure of what the log says.
            if i == len(in_order) or in_order[i] > shard.greatest_key:
                continue
            if hit := self._keys_of(shard).intersection(in_order):
                found |= {row.key: row for row in read_columns(self.storage, shard.path, columns, hit)}
        return found

    def _insert(self, rows: Mapping[str, EncodedPhoto], *, is_new: bool) -> bool:
        if not is_new:
            return self._replace(rows)
        shard = write_shard(self.storage, list(rows.values()))
        if not self.log.swap([], [shard]):
            return False
        # Known without reading it back, which the next commit would do: neighbouring shards' ranges of keys overlap.
        self._keys_in[shard.path] = frozenset(rows)
        self._references_in[shard.path] = {key: row.same_as for key, row in rows.items() if row.same_as is not None}
        return True

    def _replace(self, rows: Mapping[str, EncodedPhoto], *, drop: Collection[str] = (), ignore: Collection[str] = ()) -> bool:
        """Try once what `put` says; False if another writer was faster."""
        live = sorted(self.shards(), key=lambda shard: shard.path)
        for cache in (self._keys_in, self._references_in):
            for path in cache.keys() - {shard.path for shard in live}:
                del cache[path]
        looked_into = [shard for shard in live if shard.path not in drop and shard.path not in ignore]
        hit = {shard.path: keys for shard in looked_into if not rows.keys().isdisjoint(keys := self._keys_of(shard))}
        references_in = {shard.path: self._references_of(shard) for shard in looked_into} if hit else {}
        inherited = heirs(self.storage, rows, hit, references_in)
        left = {**rows, **inherited}
        replaced = frozenset(left)
        changed = {path for path, references in references_in.items() if not inherited.keys().isdisjoint(references)}
        written = []
        for path in sorted(changed | hit.keys()):
            # One shard after the other, so that no more than one is in memory.
            kept = []
            for row in read_shard(self.storage, path):
                if row.key not in replaced:
                    kept.append(row)
                elif row.key in left:
                    kept.append(instead(row, left.pop(row.key)))
            if kept:
                written.append(write_shard(self.storage, kept))
        if left:
            written.append(write_shard(self.storage, list(left.values())))
        return self.log.swap([*changed, *hit, *(shard.path for shard in live if shard.path in drop)], written)

    def _tell(self, num_rows: int, attempt: int, started_s: float) -> None:
        if num_rows:
            took_s, version = round(time.perf_counter() - started_s, 3), self.log.version
            extra = {"stage": "commit", "num_rows": num_rows, "version": version, "attempt": attempt, "took_s": took_s}
            log.info("committed", extra=extra)

    def _outrun(self) -> ArchiveError:
        return ArchiveError(f"{self.storage.url}: other writers won {_MAX_TRIES} commits in a row; run the command again")
