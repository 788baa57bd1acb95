"""The archive: a Delta table whose Parquet files we write and whose log delta-rs owns.

A shard counts once the log names it. Commits carry an application transaction: of two writers that raced, delta-rs lets
one through; the other reads what is new, drops the keys that are there, and tries again. So a key never appears twice, and
a process that dies leaves at most a file that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, Transaction

from pipeline.archive.schema import schema_with_features
from pipeline.archive.shard_writer import write_shard
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
    least_key: str
    greatest_key: str


class Archive:
    """An archive at a URL. Reading needs the log only; photos are read by `shard_reader` and `lookup`."""

    def __init__(self, storage: Storage, table: DeltaTable) -> None:
        self.storage = storage
        self._table = table
        self._keys: set[str] = set()
        self._seen: set[str] = set()

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
        return [
            ShardInfo(
                path=action["path"],
                size_bytes=action["size_bytes"],
                num_rows=action["num_records"],
                least_key=action["min.key"],
                greatest_key=action["max.key"],
            )
            for action in actions
        ]

    def keys(self) -> frozenset[str]:
        """Keys of every row; only shards not seen by this object before are read."""
        for shard in self.shards():
            if shard.path not in self._seen:
                with self.storage.open(shard.path) as handle:
                    self._keys.update(pq.read_table(handle, columns=["key"])["key"].to_pylist())
                self._seen.add(shard.path)
        return frozenset(self._keys)

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
            action = AddAction(
                path=shard.path,
                size=shard.size_bytes,
                partition_values={},
                modification_time=shard.modified_ms,
                data_change=True,
                stats=shard.statistics,
            )
            version = (self._table.transaction_version(APP_ID) or 0) + 1
            properties = CommitProperties(app_transactions=[Transaction(APP_ID, version)], max_commit_retries=0)
            try:
                self._table.create_write_transaction([action], "append", self._table.schema(), commit_properties=properties)
            except CommitFailedError:
                continue
            self._keys.update(row.key for row in fresh)
            self._seen.add(shard.path)
            self.refresh()
            return len(fresh)
        raise ArchiveError(f"{self.storage.url}: other writers won {_MAX_TRIES} commits in a row; run the command again")
