"""Parquet shards -> rows, every page held against its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ArchiveDamagedError, SettingError, StorageError
from pipeline.patterns import EVERY_KEY, KeyPatterns
from pipeline.records import ARCHIVE_SCHEMA, EncodedPhoto, encoded_from_table
from pipeline.storage.archive_files import SHARD_NAME
from pipeline.storage.base import Storage

if TYPE_CHECKING:
    from pipeline.archive.commit import Archive

GREATEST_KEY = chr(0x10FFFF)
_MAX_ROWS = 1 << 20
"""Of a shard: `SHARD_BYTES` of the smallest rows are half as many."""
_CURE = "bring it back from a copy, or encode it again: photoark verify ARCHIVE --against SRC --repair"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One row group of one shard: what a decode task reads at once."""

    path: str
    row_group: int
    num_rows: int


def list_fragments(archive: Archive, patterns: KeyPatterns = EVERY_KEY) -> dict[Fragment, int]:
    """Return the row groups that hold a key that `patterns` take, in order of their keys, with the number of such keys.

    Raises:
        ArchiveDamagedError: a shard is missing, or its footer or, where there are patterns, a page of keys is damaged.
    """
    fragments = {}
    for shard in sorted(archive.shards(), key=lambda s: s.least_key):
        if not patterns.may_take_between(shard.least_key, shard.greatest_key):
            continue
        with open_shard(archive.storage, shard.path) as file:
            for i in range(file.num_row_groups):
                num_rows = num_taken = file.metadata.row_group(i).num_rows
                if not patterns.takes_all:
                    # Not the statistics: no checksum covers them, and pyarrow aborts the process over some that are damaged.
                    num_taken = sum(map(patterns.takes, read_group(file, i, ["key"])["key"].to_pylist()))
                if num_taken or patterns.takes_all:
                    fragments[Fragment(path=shard.path, row_group=i, num_rows=num_rows)] = num_taken
    return fragments


def no_key(archive: str, patterns: KeyPatterns) -> SettingError:
    """Return the error that says that `patterns` take no key of an archive."""
    return SettingError(f"no key of {archive} matches {patterns}: `photoark ls` lists its keys")


def count_rows(archive: Archive) -> int:
    """Return the number of rows of an archive; shards are opened only where the log does not say.

    Raises:
        ArchiveDamagedError: such a shard is missing or its footer is damaged.
    """
    num_rows = 0
    for shard in archive.shards():
        if shard.num_rows < 0:
            with open_shard(archive.storage, shard.path) as file:
                num_rows += file.metadata.num_rows
        else:
            num_rows += shard.num_rows
    return num_rows


def read_fragment(storage: Storage, fragment: Fragment, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one row group; columns that it lacks, as of an earlier version, hold nulls.

    Raises:
        ArchiveDamagedError: a page fails its checksum, or what is read are no rows of an archive.
    """
    with open_shard(storage, fragment.path) as file:
        return _as_ours(read_group(file, fragment.row_group, columns), columns)


def read_rows(
    archive: Archive, patterns: KeyPatterns = EVERY_KEY, columns: Sequence[str] | None = None
) -> Iterator[EncodedPhoto]:
    """Yield the rows whose keys `patterns` take, sorted within a shard; columns left out come back as None."""
    wanted = None if columns is None else list(dict.fromkeys(("key", "outcome", *columns)))
    for fragment in list_fragments(archive, patterns):
        for row in encoded_from_table(read_fragment(archive.storage, fragment, wanted)):
            if patterns.takes(row.key):
                yield row


def read_shard(storage: Storage, path: str) -> list[EncodedPhoto]:
    """Every row of a shard, after the whole file was held against its checksum: for what is about to be written again.

    Raises:
        ArchiveDamagedError: it is missing, or one of its bytes is not as it was written.
    """
    try:
        data = storage.read(path)
    except StorageError as error:
        raise ArchiveDamagedError(f"shard {path} cannot be read: {error}") from error
    if not is_as_written(path, data):
        raise ArchiveDamagedError(f"shard {path} is damaged: its bytes are not those that were written (SHA-256); {_CURE}")
    with _damage_told(path), pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        return encoded_from_table(file.read(use_threads=False))


def read_columns(
    storage: Storage, path: str, columns: Sequence[str], keys: Collection[str] | None = None
) -> list[EncodedPhoto]:
    """Rows of a shard (those of `keys`, where given) with `columns`; key and outcome must be among them.

    Raises:
        ArchiveDamagedError: it is missing or damaged.
    """
    with open_shard(storage, path) as file:
        table = file.read(columns=list(columns), use_threads=False)
    if keys is not None:
        table = table.filter(pc.is_in(table["key"], pa.array(keys, pa.string())))
    return encoded_from_table(table)


def is_as_written(path: str, data: bytes) -> bool:
    """Whether `data` has the checksum that the name of the shard holds; true where the name holds none."""
    match = SHARD_NAME.fullmatch(path)
    return match is None or len(match[1]) != 64 or hashlib.sha256(data).hexdigest() == match[1]


@contextmanager
def open_shard(storage: Storage, path: str) -> Iterator[pq.ParquetFile]:
    """A shard, with errors in its bytes as `ArchiveDamagedError`."""
    with _damage_told(path), storage.open(path) as handle, pq.ParquetFile(handle, page_checksum_verification=True) as file:
        check_num_rows(file)
        yield file


def read_group(file: pq.ParquetFile, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group, read by this thread alone.

    A thread of pyarrow's may hold what it read for a moment longer; when Python ends meanwhile, that thread aborts the process.
    """
    return file.read_row_group(group, columns=columns, use_threads=False)


def check_num_rows(file: pq.ParquetFile) -> None:
    """Hold a shard's size against what memory is there for, before a row of it is read.

    Raises:
        ArchiveDamagedError: it claims more rows than any shard has.
    """
    # A few bytes can stand for any number of rows that are alike.
    num_rows = sum(max(0, file.metadata.row_group(i).num_rows) for i in range(file.num_row_groups))
    if num_rows > _MAX_ROWS:
        raise ArchiveDamagedError(f"a shard claims {num_rows} rows, more than the {_MAX_ROWS} that one can have")


@contextmanager
def _damage_told(path: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise ArchiveDamagedError(f"shard {path} cannot be read: {error}") from error
    except (OSError, pa.ArrowException, ValueError, TypeError, LookupError) as error:
        # Arrow's own, and those of who takes what it read for rows of ours.
        raise ArchiveDamagedError(f"shard {path} is damaged: {error}; {_CURE}") from error


def _as_ours(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """`table` with just the columns that were asked for, of the types that they should have."""
    fields = [field for field in ARCHIVE_SCHEMA if columns is None or field.name in columns]
    arrays = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in fields
    ]
    for field, array in zip(fields, arrays, strict=True):
        if not field.nullable and array.null_count:
            raise ValueError(f"{field.name} is missing")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
