"""The archive: a Delta table whose Parquet files we write and whose log delta-rs owns.

A shard counts once the log names it. Commits carry an application transaction: of two writers that raced, delta-rs lets
one through; the other reads what is new, drops the keys that are there, and tries again. So a key never appears twice, and
a process that dies leaves at most a file that nothing refers to. Rows that change are written with their neighbours into a
new shard, and one commit takes the old shard out and the new one in: every version of the log holds each key once.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from pipeline.archive.schema import schema_with_features
from pipeline.archive.shard_reader import GREATEST_KEY, open_shard, read_shard
from pipeline.archive.shard_writer import Shard, write_shard
from pipeline.errors import ArchiveError, ArchiveNotFoundError
from pipeline.records import EncodedPhoto
from pipeline.storage import Storage

APP_ID = "photoark-encode"
"""All writers use one id: that is what makes two commits at once conflict."""
_MAX_TRIES = 20


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

    def __init__(self, storage: Storage, table: DeltaTable) -> None:
        self.storage = storage
        self._table = table
        self._keys_in: dict[str, frozenset[str]] = {}

    @classmethod
    def open(cls, url: str) -> Archive:
        """Open an archive.

        Raises:
            ArchiveNotFoundError: there is none.
        """
        storage = Storage(url)
        try:
            return cls(storage, DeltaTable(storage.url, storage_options=storage.delta_options()))
        except TableNotFoundError as error:
            raise ArchiveNotFoundError(f"there is no archive at {storage.url}; make one with `photoark encode`") from error
        except (DeltaError, OSError) as error:
            raise ArchiveError(f"the archive at {storage.url} cannot be opened: {error}") from error

    @classmethod
    def open_or_create(cls, url: str) -> Archive:
        """Open an archive, or make an empty one.

        Raises:
            ArchiveError: it can be neither opened nor made.
        """
        storage = Storage(url)
        try:
            DeltaTable.create(
                storage.url,
                schema=Schema.from_arrow(schema_with_features()),
                mode="ignore",
                storage_options=storage.delta_options(),
                description="Photos as bitstreams; made by photoark",
            )
        except (DeltaError, OSError) as error:
            raise ArchiveError(f"no archive can be made at {storage.url}: {error}") from error
        return cls.open(url)

    def refresh(self) -> None:
        """Take up what others committed since."""
        self._table.update_incremental()

    def shards(self) -> list[ShardInfo]:
        """Every shard that the log names."""
        actions = pa.table(self._table.get_add_actions(flatten=True)).to_pylist()
        return [_shard_info(action) for action in actions]

    def keys(self, *, ignore: Collection[str] = ()) -> frozenset[str]:
        """Keys of every row but those of the shards `ignore`; only shards not seen by this object before are read.

        Raises:
            ArchiveDamagedError: a shard is missing or damaged.
        """
        paths = {shard.path for shard in self.shards()}
        for path in self._keys_in.keys() - paths:
            del self._keys_in[path]
        return frozenset().union(*map(self._keys_of, paths.difference(ignore)))

    def commit(self, rows: Sequence[EncodedPhoto]) -> int:
        """Write `rows` as one shard and name it in the log; rows whose key is there already are left out.

        Returns:
            How many rows were added.

        Raises:
            ArchiveError: other writers won every try.
            StorageError: the shard cannot be written.
        """
        for _ in range(_MAX_TRIES):
            self.refresh()
            known = self.keys()
            fresh = list({row.key: row for row in rows if row.key not in known}.values())
            if not fresh:
                return 0
            shard = write_shard(self.storage, fresh)
            if self.swap([], [shard]):
                self._keys_in[shard.path] = frozenset(row.key for row in fresh)
                return len(fresh)
        raise self._outrun()

    def put(self, rows: Sequence[EncodedPhoto], *, drop: Collection[str] = (), ignore: Collection[str] = ()) -> None:
        """Let `rows` take the place of every row of their keys, in one commit; a key that is nowhere yet is added.

        Args:
            rows: one a key.
            drop: shards that leave the log with all their rows, unread.
            ignore: shards that are not looked into, because they are damaged.

        Raises:
            ArchiveDamagedError: a shard that has to be read is missing or damaged.
            ArchiveError: other writers won every try.
            StorageError: a shard cannot be written.
        """
        for _ in range(_MAX_TRIES):
            self.refresh()
            live = sorted(shard.path for shard in self.shards())
            left = {row.key: row for row in rows}
            replaced = frozenset(left)
            looked_into = [path for path in live if path not in drop and path not in ignore]
            hit = [path for path in looked_into if replaced & self._keys_of(path)]
            written = []
            for path in hit:
                # One shard after the other, so that no more than one is in memory.
                part = [left.pop(row.key, None) if row.key in replaced else row for row in read_shard(self.storage, path)]
                if kept := [row for row in part if row is not None]:
                    written.append(write_shard(self.storage, kept))
            if left:
                written.append(write_shard(self.storage, list(left.values())))
            if self.swap([*hit, *(path for path in live if path in drop)], written):
                return
        raise self._outrun()

    def swap(self, removed: Iterable[str], added: Sequence[Shard], *, data_change: bool = True) -> bool:
        """Commit once: shards leave the log and written ones enter it, together. Their files stay until `vacuum`.

        Args:
            data_change: False says to readers of changes that the rows are the same as before.

        Returns:
            False if another writer committed since `refresh`; nothing happened then.
        """
        now_ms = int(time.time() * 1000)
        adding = {shard.path for shard in added}
        # The same rows make the same file: such a shard stays, and the log takes up its statistics anew.
        leaving = [shard for shard in self.shards() if shard.path in set(removed) - adding]
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
        version = (self._table.transaction_version(APP_ID) or 0) + 1
        properties = CommitProperties(app_transactions=[Transaction(APP_ID, version)], max_commit_retries=0)
        try:
            self._table.create_write_transaction(actions, "append", self._table.schema(), commit_properties=properties)
        except CommitFailedError:
            return False
        self.refresh()
        return True

    def unreferenced(self, retention_hours: int) -> list[str]:
        """Files that neither the log nor, within the last `retention_hours`, an older version of it names."""
        return self._table.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=True)

    def _keys_of(self, path: str) -> frozenset[str]:
        if path not in self._keys_in:
            with open_shard(self.storage, path) as file:
                self._keys_in[path] = frozenset(file.read(columns=["key"])["key"].to_pylist())
        return self._keys_in[path]

    def _outrun(self) -> ArchiveError:
        return ArchiveError(f"{self.storage.url}: other writers won {_MAX_TRIES} commits in a row; run the command again")


def _shard_info(action: dict[str, Any]) -> ShardInfo:
    num_rows, least, greatest = (action.get(name) for name in ("num_records", "min.key", "max.key"))
    return ShardInfo(
        path=action["path"],
        size_bytes=action["size_bytes"],
        num_rows=-1 if num_rows is None else num_rows,
        least_key="" if least is None else least,
        greatest_key=GREATEST_KEY if greatest is None else greatest,
    )
