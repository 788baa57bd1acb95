"""One Parquet shard -> rows, every page checked against its checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ArchiveDamagedError, StorageError
from pipeline.records import ARCHIVE_SCHEMA, EncodedPhoto, encoded_from_table
from pipeline.storage.archive_files import SHARD_NAME
from pipeline.storage.base import Storage

GREATEST_KEY = chr(0x10FFFF)
_MAX_ROWS = 1 << 20
"""Of a shard: `SHARD_BYTES` of the smallest rows are half as many."""
_CURE = "bring it back from a copy, or encode it again: photoark verify ARCHIVE --against SRC --repair"


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


def as_ours(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Return `table` with just the columns that were asked for, in the types of the schema; columns it lacks hold nulls.

    Raises:
        ValueError: a column that every row has holds nulls.
    """
    fields = [field for field in ARCHIVE_SCHEMA if columns is None or field.name in columns]
    arrays = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in fields
    ]
    for field, array in zip(fields, arrays, strict=True):
        if not field.nullable and array.null_count:
            raise ValueError(f"{field.name} is missing")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
