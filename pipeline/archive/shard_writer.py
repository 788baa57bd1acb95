"""Rows -> one Parquet file, laid out so that a single photo can be read with one small ranged request."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from pipeline.archive.schema import ROW_GROUP_BYTES, parquet_options, schema_with_features
from pipeline.records import EncodedPhoto, encoded_to_table
from pipeline.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A written file, not yet part of the archive."""

    path: str
    """Relative to the archive; holds the SHA-256 of the file."""
    size_bytes: int
    num_rows: int
    modified_ms: int
    """Milliseconds since 1970."""
    statistics: str
    """Delta's JSON: number of records, least and greatest key."""


def write_shard(storage: Storage, rows: Sequence[EncodedPhoto]) -> Shard:
    """Sort `rows` by key and write them below `storage`; nothing refers to the file yet.

    Raises:
        StorageError: it cannot be written.
    """
    shard, data = render_shard(rows)
    storage.write(shard.path, data)
    return shard


def render_shard(rows: Sequence[EncodedPhoto]) -> tuple[Shard, bytes]:
    """The file that `write_shard` writes, and what the log will say of it.

    Its name is the SHA-256 of its bytes. Page checksums do not cover Parquet's own headers and footer, where one flipped
    bit can change rows in silence; and the same rows written twice are the same file.
    """
    rows = sorted(rows, key=lambda row: row.key)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema_with_features(), **parquet_options()) as writer:
        for group in _row_groups(rows):
            writer.write_table(encoded_to_table(group).cast(schema_with_features()), row_group_size=len(group))
    data = buffer.getvalue()
    statistics = {
        "numRecords": len(rows),
        "minValues": {"key": rows[0].key},
        "maxValues": {"key": rows[-1].key},
        "nullCount": {"key": 0},
    }
    shard = Shard(
        path=f"photos-{hashlib.sha256(data).hexdigest()}.parquet",
        size_bytes=len(data),
        num_rows=len(rows),
        modified_ms=int(time.time() * 1000),
        statistics=json.dumps(statistics),
    )
    return shard, data


def row_bytes(row: EncodedPhoto) -> int:
    """Roughly what a row costs in the file."""
    blocks = (row.image, row.exif, row.icc, row.xmp, row.iptc, row.xmp_extended, row.original)
    return 256 + sum(len(block) for block in blocks if block)


def _row_groups(rows: Sequence[EncodedPhoto]) -> list[list[EncodedPhoto]]:
    groups: list[list[EncodedPhoto]] = [[]]
    size_bytes = 0
    for row in rows:
        if groups[-1] and size_bytes + row_bytes(row) > ROW_GROUP_BYTES:
            groups.append([])
            size_bytes = 0
        groups[-1].append(row)
        size_bytes += row_bytes(row)
    return groups
