"""One shard, looked at as if nothing about it could be trusted: what can still be read, what is hurt, and whose it is.

    bytes -> SHA-256 against the name -> footer -> row groups, page by page -> statistics of the shard and of the log

A damaged row group costs its own rows; the others are read. Where even its keys cannot be read, the log's are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.archive.footer import Bounds, column_bounds
from pipeline.archive.log import ShardInfo
from pipeline.archive.shard_reader import check_num_rows, is_as_written, read_group
from pipeline.errors import StorageError
from pipeline.records import ARCHIVE_SCHEMA, EncodedPhoto, encoded_from_table
from pipeline.storage.base import Storage


class DamageKind(StrEnum):
    """What is not as it should be."""

    MISSING = "missing"
    """The log names a shard that is not there."""
    UNREADABLE = "unreadable"
    """The store does not hand it out, which may pass."""
    BYTES = "bytes"
    """Stored bytes are not those that were written."""
    ROW = "row"
    """A row contradicts itself, or its bitstream cannot be read."""
    DUPLICATE = "duplicate"
    """A key is there more than once."""
    LOG = "log"
    """The log names other shards than its last commit left, or cannot be read."""
    STATISTICS = "statistics"
    """What was derived from the rows, to find them by, is not what they give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not as it should be."""

    kind: DamageKind
    shard: str
    keys: tuple[str, ...]
    """Photos it hurts."""
    what: str
    all_keys_known: bool = True
    """False: `keys` are the least and the greatest of those it hurts, the others cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheck:
    """What a shard came to."""

    shard: ShardInfo
    rows: tuple[EncodedPhoto, ...] = ()
    """Whose pages hold what was written."""
    doubtful_rows: tuple[EncodedPhoto, ...] = ()
    """That can be read, from a shard that is hurt where no page checksum tells what depends on it."""
    damages: tuple[Damage, ...] = ()


def check_shard(storage: Storage, shard: ShardInfo) -> ShardCheck:
    """Read a shard whole; what is wrong with it is told, never raised."""
    try:
        data = storage.read(shard.path)
    except StorageError as error:
        return ShardCheck(shard=shard, damages=(_unread(storage, shard, error),))
    is_whole = is_as_written(shard.path, data)
    # Damaged bytes can raise anything: a length that no memory holds, text that is no UTF-8, columns that are not ours.
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            check_num_rows(file)
            # Statistics of a file that is hurt say nothing of its rows. Those of a whole one are not pyarrow's to read: it may
            # have been written to end whoever reads it.
            rows, damages = _read(shard, file, column_bounds(data) if is_whole else [])
    except Exception as error:
        what = f"the shard is damaged: {error}; {_bounds_told(shard)}"
        return ShardCheck(shard=shard, damages=(_bytes_damage(shard, None, what),))
    if is_whole or damages:
        if not any(damage.kind is DamageKind.BYTES for damage in damages):
            damages += _log_damages(shard, rows, len(data))
        return ShardCheck(shard=shard, rows=tuple(rows), damages=tuple(damages))
    keys = [row.key for row in rows]
    what = "its bytes are not those that were written (SHA-256), outside of what the checksums of pages cover"
    damage = _bytes_damage(shard, keys if len(keys) == shard.num_rows else None, what)
    return ShardCheck(shard=shard, doubtful_rows=tuple(rows), damages=(damage,))


def _read(shard: ShardInfo, file: pq.ParquetFile, bounds: list[Bounds]) -> tuple[list[EncodedPhoto], list[Damage]]:
    rows: list[EncodedPhoto] = []
    damages: list[Damage] = []
    for i in range(file.num_row_groups):
        try:
            table = read_group(file, i)
            rows += encoded_from_table(table.cast(pa.schema([ARCHIVE_SCHEMA.field(name) for name in table.column_names])))
        except Exception as error:
            damages.append(_bytes_damage(shard, _keys_left(file, i), f"row group {i} is damaged: {error}"))
        else:
            damages += _group_damages(shard, bounds[i], table) if bounds else []
    return rows, damages


def _bytes_damage(shard: ShardInfo, keys: list[str] | None, what: str) -> Damage:
    """Damage of the photos `keys`, if they can be true; else of all between the log's."""
    if not keys or not all(isinstance(key, str) and shard.least_key <= key <= shard.greatest_key for key in keys):
        return Damage(
            kind=DamageKind.BYTES, shard=shard.path, keys=_bounds(shard), what=what, all_keys_known=False
        )  # fmt: skip
    return Damage(kind=DamageKind.BYTES, shard=shard.path, keys=tuple(keys), what=what)


def _unread(storage: Storage, shard: ShardInfo, error: StorageError) -> Damage:
    try:
        is_there = storage.exists(shard.path)
    except StorageError:
        is_there = True
    return Damage(
        kind=DamageKind.UNREADABLE if is_there else DamageKind.MISSING,
        shard=shard.path,
        keys=_bounds(shard),
        what=f"the shard cannot be read: {error}; {_bounds_told(shard)}",
        all_keys_known=False,
    )


def _keys_left(file: pq.ParquetFile, group: int) -> list[str] | None:
    """Keys of a row group that is damaged; None if they are part of it."""
    # A key is there twice: in its column, and as the path of its image.
    for column in ("key", "image.path"):
        try:
            table = read_group(file, group, [column])
            keys = [row["image"]["path"] if column == "image.path" else row["key"] for row in table.to_pylist()]
        except Exception:
            continue
        if len(keys) == file.metadata.row_group(group).num_rows:
            return keys
    return None


def _bounds(shard: ShardInfo) -> tuple[str, ...]:
    return tuple(dict.fromkeys((shard.least_key, shard.greatest_key)))


def _bounds_told(shard: ShardInfo) -> str:
    if shard.num_rows < 0:
        return "what it held is not known"
    return f"it held {shard.num_rows} rows, keys {shard.least_key!r} to {shard.greatest_key!r}"


def _group_damages(shard: ShardInfo, bounds: Bounds, table: pa.Table) -> list[Damage]:
    """Statistics of a row group's columns that its rows do not bear out."""
    damages = []
    for column in bounds.keys() & set(table.column_names):
        found = pc.min_max(table[column]).as_py()
        if bounds[column] != (found["min"], found["max"]):
            what = f"the shard's statistics of {column} are not those of its rows"
            keys = tuple(table["key"].to_pylist())
            damages.append(Damage(kind=DamageKind.STATISTICS, shard=shard.path, keys=keys, what=what))
    return damages


def _log_damages(shard: ShardInfo, rows: list[EncodedPhoto], size_bytes: int) -> list[Damage]:
    """What the log says of a shard that the shard does not bear out: computed again from its rows, and compared."""
    keys = [row.key for row in rows]
    faults = []
    if shard.num_rows != len(rows):
        faults.append(f"the log promises {shard.num_rows} rows, the shard holds {len(rows)}")
    if shard.size_bytes != size_bytes:
        faults.append(f"the log promises {shard.size_bytes} bytes, the shard has {size_bytes}")
    hidden: tuple[str, ...] = ()
    if keys and (shard.least_key, shard.greatest_key) != (min(keys), max(keys)):
        faults.append(
            f"the log says keys {shard.least_key!r} to {shard.greatest_key!r}, the shard holds {min(keys)!r} to {max(keys)!r}"
        )
        hidden = tuple(key for key in keys if not shard.least_key <= key <= shard.greatest_key)
    return [Damage(kind=DamageKind.STATISTICS, shard=shard.path, keys=hidden, what=what) for what in faults]
