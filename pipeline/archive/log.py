"""The log of an archive, which delta-rs owns: which shards count, and one commit after the other.

The log has no checksum of its own. So each commit records a fingerprint of all that the log names after it; a flipped bit that
loses a shard, or brings one back, is then noticed, and nobody builds on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from pipeline.archive.schema import schema_with_features
from pipeline.archive.shard_reader import GREATEST_KEY
from pipeline.archive.shard_writer import Shard
from pipeline.errors import ArchiveDamagedError, ArchiveError, ArchiveNotFoundError, SettingError, StorageError
from pipeline.storage.archive_files import APP_ID, DESCRIPTION, SHARD_PREFIX
from pipeline.storage.base import Storage, check_relative, told

_FINGERPRINT = "photoark.fingerprint"
_OURS = frozenset({"key", "image", "outcome"})
"""Columns that every archive has had since the first version."""
_CHECKPOINT_COMMITS = "20"
"""Between checkpoints. delta-rs reads every commit since the last one several times a commit: with its 100, one takes twice as
long."""


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


class Log:
    """The log as it is in memory, since `refresh` or since this object's own last commit."""

    def __init__(self, storage: Storage) -> None:
        """Read it.

        Raises:
            SettingError: there is no such bucket, or a file is where the folder would be.
            ArchiveNotFoundError: there is none, or a Delta table of another program.
            ArchiveDamagedError: there is none, and yet there are shards.
            ArchiveError: it cannot be read.
        """
        self._storage = storage
        self._shards: tuple[int, list[ShardInfo]] | None = None
        """Version, and what it names: asking delta-rs anew takes time for every shard."""
        if file := storage.file_in_the_way():
            raise SettingError(f"there can be no archive at {storage.url}: {file} is a file; name a folder")
        with _opening(f"the archive at {storage.url} cannot be opened"):
            try:
                self._open_anew()
            except TableNotFoundError as error:
                if not storage.holds_any(SHARD_PREFIX):
                    raise ArchiveNotFoundError(
                        f"there is no archive at {storage.url}; make one with `photoark encode`"
                    ) from error
                try:
                    self._open_anew()  # who writes a shard has made the log by then
                except TableNotFoundError:
                    # In a new log they would be nobody's, and `vacuum` would delete them.
                    raise ArchiveDamagedError(f"{storage.url} holds shards and no log: see photoark salvage") from error

        columns = {field.name for field in self._table.schema().fields}
        if not columns >= _OURS and self._table.metadata().description != DESCRIPTION:
            raise ArchiveNotFoundError(
                f"{storage.url} is a Delta table of another program, with columns {', '.join(sorted(columns)[:5])}; "
                "name an archive, or another folder for a new one"
            )

    def refresh(self) -> None:
        """Take up what others committed since.

        Raises:
            ArchiveError: the log cannot be read.
        """
        options = self._storage.delta_options()
        with _told(f"the log of {self._storage.url} cannot be read"):
            if options == self._options:
                self._table.update_incremental()
            else:  # credentials were renewed
                self._open_anew()
            if self.fault():
                self._open_anew()  # it may have been hurt on its way here

    def _open_anew(self) -> None:
        self._sound_version = -1  # of the log in memory, the last whose fingerprint was looked at
        self._shards = None
        self._options = self._storage.delta_options()
        self._table = DeltaTable(self._storage.delta_url(), storage_options=self._options)

    def fault(self) -> str | None:
        """What is wrong with the log, if what it names is not what the last commit left. Other programs' commits tell nothing.

        Raises:
            StorageError: the log cannot be read.
        """
        if self._table.version() == self._sound_version:
            return None
        path = f"_delta_log/{self._table.version():020d}.json"
        try:
            actions = [json.loads(line) for line in self._storage.read(path).decode().splitlines()]
            promised = [action["commitInfo"].get(_FINGERPRINT) for action in actions if "commitInfo" in action]
        except (ValueError, TypeError, AttributeError) as error:
            return f"the log is damaged: {path}: {told(error)}"
        if promised in ([], [None], [self._fingerprint(self.shards())]):
            self._sound_version = self._table.version()
            return None
        return "the log is damaged: what it names is not what its last commit left"

    @property
    def version(self) -> int:
        """Number of the last commit in memory."""
        return int(self._table.version())

    def shards(self) -> list[ShardInfo]:
        """Every shard that the log names."""
        version = self._table.version()
        if self._shards is None or self._shards[0] != version:
            # Not `pa.table`, which imports pandas to see whether it was given a data frame.
            actions = pa.RecordBatchReader.from_stream(self._table.get_add_actions(flatten=True)).read_all().to_pylist()
            self._shards = version, [_shard_info(action) for action in actions]
        return list(self._shards[1])

    def unreferenced(self, retention_hours: int) -> list[str]:
        """Files that neither the log nor, within the last `retention_hours`, an older version of it names."""
        return self._table.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=True)

    def _fingerprint(self, shards: Iterable[ShardInfo]) -> str:
        named = sorted(json.dumps([s.path, s.size_bytes, s.num_rows, s.least_key, s.greatest_key]) for s in shards)
        return hashlib.sha256("\n".join([self._table.schema().to_json(), *named]).encode()).hexdigest()


class LogWriter(Log):
    """The log, with what changes it."""

    @classmethod
    def open_or_create(cls, storage: Storage) -> LogWriter:
        """Read it, or begin one; the schema of an earlier version gets the columns that have come since.

        Raises:
            SettingError: there is no such bucket, or a file is where the folder would be.
            ArchiveDamagedError: there is none, and yet there are shards.
            ArchiveError: it can be neither opened nor made.
        """
        schema = Schema.from_arrow(schema_with_features())
        try:
            log = cls(storage)
        except ArchiveNotFoundError:
            with _opening(f"no archive can be made at {storage.url}"):
                DeltaTable.create(
                    storage.delta_url(),
                    schema=schema,
                    mode="ignore",
                    storage_options=storage.delta_options(),
                    description=DESCRIPTION,
                    configuration={"delta.checkpointInterval": _CHECKPOINT_COMMITS},
                )
            log = cls(storage)
        if lacking := log._lacking(schema):
            try:
                log._table.alter.add_columns(lacking)
            except (DeltaError, OSError) as error:
                log.refresh()
                if log._lacking(schema):  # no other writer was faster
                    raise ArchiveError(f"the archive at {storage.url} cannot take new columns: {told(error)}") from error
        return log

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
        if not accept_log and (fault := self.fault()):
            cure = "photoark verify ARCHIVE says whom it hurts, --against SRC --repair mends it"
            raise ArchiveDamagedError(f"{self._storage.url}: {fault}; {cure}")
        adding = {shard.path for shard in added}
        # The same rows make the same file: such a shard stays, and the log takes up its statistics anew.
        before, out = self.shards(), set(removed) - adding
        leaving = [shard for shard in before if shard.path in out]
        after = [shard for shard in before if shard.path not in out | adding] + [_info_of(shard) for shard in added]
        # The store's clock, as in `vacuum`: readers of the version before need what leaves for some time yet.
        now_ms = int(self._storage.now().timestamp() * 1000) if leaving else 0
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
                # Any number that grows; for the last one delta-rs would read the log again.
                app_transactions=[Transaction(APP_ID, log_version + 1)],
                max_commit_retries=0,
            )
            self._table.create_write_transaction(actions, "append", self._table.schema(), commit_properties=properties)
        except (DeltaError, OSError) as error:
            self.refresh()
            if self._table.version() == log_version:
                raise StorageError(f"the log of {self._storage.url} cannot be written: {told(error)}") from error
            # Another writer's commit, or ours, whose answer was lost on the way.
            now = {shard.path for shard in self.shards()}
            return adding <= now and not out & now
        self.refresh()
        return True

    def _lacking(self, schema: Schema) -> list[Field]:
        known = {field.name for field in self._table.schema().fields}
        return [field for field in schema.fields if field.name not in known]


@contextmanager
def _opening(what: str) -> Iterator[None]:
    """As `_told`, where a bucket that does not exist is a `SettingError`."""
    try:
        with _told(what):
            yield
    except ArchiveError as error:
        if "NoSuchBucket" in error.message:
            raise SettingError(error.message) from error
        raise


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of delta-rs as `ArchiveError`."""
    try:
        yield
    except (DeltaError, OSError) as error:
        raise ArchiveError(f"{what}: {told(error)}") from error
    except BaseException as error:
        # Over some damaged checkpoints Rust code gives up, which is no `Exception`, and whose type nobody exports.
        if type(error).__name__ != "PanicException":
            raise
        raise ArchiveError(f"{what}: {told(error)}") from error


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
