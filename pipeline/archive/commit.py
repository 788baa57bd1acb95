"""The archive: a Delta table whose Parquet files we write and whose log delta-rs owns.

A shard counts once the log names it. Commits carry an application transaction: of two writers that raced, delta-rs lets
one through; the other reads what is new, drops the keys that are there (unless its own rows are of a newer version of the
source), and tries again. So a key never appears twice, and a process that dies leaves at most a file that nothing refers to.
Rows that change are written with their neighbours into a new shard, and one commit takes the old shard out and the new one in:
every version of the log holds each key once.

The log has no checksum of its own. So each commit records a fingerprint of all that the log names after it; a flipped bit that
loses a shard, or brings one back, is then noticed, and nobody builds on it.
"""

from __future__ import annotations

import hashlib
import json
import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from pipeline.archive.compare import SOURCE_COLUMNS, SourceVersion, takes_place
from pipeline.archive.references import heirs, holds, instead, reference
from pipeline.archive.schema import schema_with_features
from pipeline.archive.shard_reader import GREATEST_KEY, read_columns, read_shard
from pipeline.archive.shard_writer import Shard, write_shard
from pipeline.errors import ArchiveDamagedError, ArchiveError, ArchiveNotFoundError, StorageError
from pipeline.records import ARCHIVE_SCHEMA, BLOB_COLUMNS, EncodedPhoto
from pipeline.storage import Storage, check_relative, told

APP_ID = "photoark-encode"
"""All writers use one id: that is what makes two commits at once conflict."""
_FINGERPRINT = "photoark.fingerprint"
_MAX_TRIES = 20
_NOTHING_SEEN: Mapping[str, SourceVersion] = MappingProxyType({})
_NARROW_COLUMNS = tuple(name for name in ARCHIVE_SCHEMA.names if name not in BLOB_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """What the log says of a shard."""

    path: str
    size_bytes: int
    num_rows: int
    """-1 where the log does not say."""
    least_key: str
    """The least there can be, where the log does not say."""
    greatest_key: str


class Archive:
    """An archive at a URL. Reading needs the log only; photos are read by `shard_reader` and `lookup`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._options = storage.delta_options()
        self._table = DeltaTable(storage.url, storage_options=self._options)
        self._sound_version = -1
        """Of the log as it is in memory, the last whose fingerprint was looked at."""
        self._keys_in: dict[str, frozenset[str]] = {}
        self._references_in: dict[str, dict[str, str]] = {}
        """Path of a shard -> which of its rows, by key, are the same as which other."""

    @classmethod
    def open(cls, url: str) -> Archive:
        """Open an archive.

        Raises:
            ArchiveNotFoundError: there is none.
        """
        storage = Storage(url)
        try:
            return cls(storage)
        except TableNotFoundError as error:
            raise ArchiveNotFoundError(f"there is no archive at {storage.url}; make one with `photoark encode`") from error
        except (DeltaError, OSError) as error:
            raise ArchiveError(f"the archive at {storage.url} cannot be opened: {told(error)}") from error

    @classmethod
    def open_or_create(cls, url: str) -> Archive:
        """Open an archive, or make an empty one; the schema of an earlier version gets the columns that have come since.

        Raises:
            ArchiveError: it can be neither opened nor made.
        """
        storage = Storage(url)
        schema = Schema.from_arrow(schema_with_features())
        try:
            DeltaTable.create(
                storage.url,
                schema=schema,
                mode="ignore",
                storage_options=storage.delta_options(),
                description="Photos as bitstreams; made by photoark",
            )
        except (DeltaError, OSError) as error:
            raise ArchiveError(f"no archive can be made at {storage.url}: {told(error)}") from error
        archive = cls.open(url)
        if lacking := archive._lacking(schema):
            try:
                archive._table.alter.add_columns(lacking)
            except (DeltaError, OSError) as error:
                archive.refresh()
                if archive._lacking(schema):  # no other writer was faster
                    raise ArchiveError(f"the archive at {storage.url} cannot take new columns: {told(error)}") from error
        return archive

    def refresh(self) -> None:
        """Take up what others committed since.

        Raises:
            ArchiveError: the log cannot be read.
        """
        options = self.storage.delta_options()
        try:
            if options == self._options:
                self._table.update_incremental()
            else:  # credentials were renewed
                self._open_anew()
            if self.log_fault():
                self._open_anew()  # it may have been hurt on its way here
        except (DeltaError, OSError) as error:
            raise ArchiveError(f"the log of {self.storage.url} cannot be read: {told(error)}") from error

    def _open_anew(self) -> None:
        self._sound_version = -1
        self._options = self.storage.delta_options()
        self._table = DeltaTable(self.storage.url, storage_options=self._options)

    def log_fault(self) -> str | None:
        """What is wrong with the log, if what it names is not what the last commit left. Other programs' commits tell nothing.

        Raises:
            StorageError: the log cannot be read.
        """
        if self._table.version() == self._sound_version:
            return None
        path = f"_delta_log/{self._table.version():020d}.json"
        try:
            actions = [json.loads(line) for line in self.storage.read(path).decode().splitlines()]
            promised = [action["commitInfo"].get(_FINGERPRINT) for action in actions if "commitInfo" in action]
        except (ValueError, TypeError, AttributeError) as error:
            return f"the log is damaged: {path}: {told(error)}"
        if promised in ([], [None], [self._fingerprint(self.shards())]):
            self._sound_version = self._table.version()
            return None
        return "the log is damaged: what it names is not what its last commit left"

    def shards(self) -> list[ShardInfo]:
        """Every shard that the log names."""
        actions = pa.table(self._table.get_add_actions(flatten=True)).to_pylist()
        return [_shard_info(action) for action in actions]

    def keys(self, *, ignore: Collection[str] = ()) -> frozenset[str]:
        """Keys of every row but those of the shards `ignore`; only shards not seen by this object before are read.

        Raises:
            ArchiveDamagedError: a shard is missing or damaged.
        """
        shards = [shard for shard in self.shards() if shard.path not in ignore]
        return frozenset().union(*(self._keys_of(shard) for shard in shards))

    def sources(self) -> Iterator[EncodedPhoto]:
        """What every row tells of its source (`SOURCE_COLUMNS`), one shard in memory at a time.

        Raises:
            ArchiveDamagedError: a shard is missing or damaged.
        """
        for shard in self.shards():
            rows = read_columns(self.storage, shard.path, SOURCE_COLUMNS)
            self._take(shard, rows)
            yield from rows

    def commit(self, rows: Sequence[EncodedPhoto], *, seen: Mapping[str, SourceVersion] = _NOTHING_SEEN) -> int:
        """Add `rows` in one commit; which one stays where a key is there already, `takes_place` says.

        Args:
            rows: one that is the same as itself only hands on what it tells of its source.
            seen: versions of rows in the archive, as the caller found them when it began to work on what replaces them.

        Returns:
            How many rows went in.

        Raises:
            ArchiveDamagedError: the log is, or a shard that has to be read.
            ArchiveError: other writers won every try.
            StorageError: a shard or the log cannot be written.
        """
        for _ in range(_MAX_TRIES):
            self.refresh()
            wanted, is_new = self._wanted(rows, seen)
            if not wanted or self._insert(wanted, is_new=is_new):
                return len(wanted)
        raise self._outrun()

    def refer(self, rows: Sequence[EncodedPhoto], *, seen: Mapping[str, SourceVersion] = _NOTHING_SEEN) -> list[EncodedPhoto]:
        """Let each of `rows` share the stream of the row that it is the same as, in one commit.

        Args:
            rows: with key, source and `same_as`; all else is filled in.
            seen: as for `commit`.

        Returns:
            Those for which there is no row with such a stream, or not yet.

        Raises:
            As `commit`.
        """
        for _ in range(_MAX_TRIES):
            self.refresh()
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
            wanted, is_new = self._wanted(ready, seen)
            if not wanted or self._insert(wanted, is_new=is_new):
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
        for _ in range(_MAX_TRIES):
            self.refresh()
            if self._replace({row.key: row for row in rows}, drop=drop, ignore=ignore):
                return
        raise self._outrun()

    def swap(
        self, removed: Iterable[str], added: Sequence[Shard], *, data_change: bool = True, accept_log: bool = False
    ) -> bool:
        """Commit once: shards leave the log and written ones enter it, together. Their files stay until `vacuum`.

        Args:
            data_change: False says to readers of changes that the rows are the same as before.
            accept_log: build on the log as it is, even though it is not what the last commit left.

        Returns:
            False if another writer committed since `refresh`; nothing happened then.

        Raises:
            ArchiveDamagedError: the log is.
            StorageError: the log cannot be written.
        """
        if not accept_log and (fault := self.log_fault()):
            cure = "photoark verify ARCHIVE says whom it hurts, --against SRC --repair mends it"
            raise ArchiveDamagedError(f"{self.storage.url}: {fault}; {cure}")
        now_ms = int(time.time() * 1000)
        adding = {shard.path for shard in added}
        # The same rows make the same file: such a shard stays, and the log takes up its statistics anew.
        before, out = self.shards(), set(removed) - adding
        leaving = [shard for shard in before if shard.path in out]
        after = [shard for shard in before if shard.path not in out | adding] + [_info_of(shard) for shard in added]
        actions: list[AddAction | RemoveAction] = [
            *(RemoveAction(shard.path, data_change, now_ms, size=shard.size_bytes, partition_values={}) for shard in leaving),
            *(
                AddAction(
                    path=shard.path,
                    size=shard.size_bytes,
                    partition_values={},
                    modification_time=shard.modified_ms,
                    data_change=data_change,
                    stats=shard.statistics,
                )
                for shard in added
            ),
        ]
        log_version = self._table.version()
        try:
            properties = CommitProperties(
                custom_metadata={_FINGERPRINT: self._fingerprint(after)},
                app_transactions=[Transaction(APP_ID, (self._table.transaction_version(APP_ID) or 0) + 1)],
                max_commit_retries=0,
            )
            self._table.create_write_transaction(actions, "append", self._table.schema(), commit_properties=properties)
        except (DeltaError, OSError) as error:
            self.refresh()
            if self._table.version() == log_version:
                raise StorageError(f"the log of {self.storage.url} cannot be written: {told(error)}") from error
            # Another writer's commit, or ours, whose answer was lost on the way.
            now = {shard.path for shard in self.shards()}
            return adding <= now and not out & now
        self.refresh()
        return True

    def unreferenced(self, retention_hours: int) -> list[str]:
        """Files that neither the log nor, within the last `retention_hours`, an older version of it names."""
        return self._table.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=True)

    def _lacking(self, schema: Schema) -> list[Field]:
        known = {field.name for field in self._table.schema().fields}
        return [field for field in schema.fields if field.name not in known]

    def _wanted(self, rows: Iterable[EncodedPhoto], seen: Mapping[str, SourceVersion]) -> tuple[dict[str, EncodedPhoto], bool]:
        """Those of `rows` that are to go in, by key, and whether none of them has a row yet."""
        new = {row.key: row for row in rows}
        there = self._rows_of(new.keys(), SOURCE_COLUMNS)
        wanted = {
            key: row
            for key, row in new.items()
            if (takes_place(row, there[key], seen.get(key)) if key in there else row.same_as != key)
        }
        return wanted, there.keys().isdisjoint(wanted)

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
        if is_new:
            return self.swap([], [write_shard(self.storage, list(rows.values()))])
        return self._replace(rows)

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
        return self.swap([*changed, *hit, *(shard.path for shard in live if shard.path in drop)], written)

    def _keys_of(self, shard: ShardInfo) -> frozenset[str]:
        if shard.path not in self._keys_in:
            rows = read_columns(self.storage, shard.path, ("key", "outcome", "same_as"))
            self._keys_in[shard.path] = self._take(shard, rows)
        return self._keys_in[shard.path]

    def _references_of(self, shard: ShardInfo) -> dict[str, str]:
        if shard.path not in self._references_in:
            self._take(shard, read_columns(self.storage, shard.path, ("key", "outcome", "same_as")))
        return self._references_in[shard.path]

    def _take(self, shard: ShardInfo, rows: Sequence[EncodedPhoto]) -> frozenset[str]:
        """Take notice of which rows of a shard refer to others; returns the keys of all."""
        keys = frozenset(row.key for row in rows)
        in_log = (shard.num_rows, shard.least_key, shard.greatest_key)
        if shard.num_rows >= 0 and in_log != (len(keys), min(keys, default=""), max(keys, default="")):
            raise ArchiveDamagedError(f"shard {shard.path} does not hold the keys that the log says; run photoark verify")
        self._references_in[shard.path] = {row.key: row.same_as for row in rows if row.same_as is not None}
        return keys

    def _fingerprint(self, shards: Iterable[ShardInfo]) -> str:
        named = sorted(json.dumps([s.path, s.size_bytes, s.num_rows, s.least_key, s.greatest_key]) for s in shards)
        return hashlib.sha256("\n".join([self._table.schema().to_json(), *named]).encode()).hexdigest()

    def _outrun(self) -> ArchiveError:
        return ArchiveError(f"{self.storage.url}: other writers won {_MAX_TRIES} commits in a row; run the command again")


def _info_of(shard: Shard) -> ShardInfo:
    statistics = json.loads(shard.statistics)
    return ShardInfo(
        path=shard.path,
        size_bytes=shard.size_bytes,
        num_rows=shard.num_rows,
        least_key=statistics["minValues"]["key"],
        greatest_key=statistics["maxValues"]["key"],
    )


def _shard_info(action: dict[str, Any]) -> ShardInfo:
    try:
        check_relative(action["path"])
    except StorageError as error:
        raise ArchiveDamagedError(f"the log names a file outside of the archive: {error.message}") from error
    num_rows, least, greatest = (action.get(name) for name in ("num_records", "min.key", "max.key"))
    return ShardInfo(
        path=action["path"],
        size_bytes=action["size_bytes"],
        num_rows=-1 if num_rows is None else num_rows,
        least_key="" if least is None else least,
        greatest_key=GREATEST_KEY if greatest is None else greatest,
    )
