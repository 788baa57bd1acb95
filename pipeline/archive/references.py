"""Rows that share the stream of another row, because the bytes of their photos are the same.

    a.jpg   image, metadata   SHA-256 S    the holder: it has a stream of its own
    b.jpg   same_as a.jpg     SHA-256 S    its image and metadata are those of a.jpg
    c.jpg   same_as a.jpg     SHA-256 S

A row that is the same as another holds nothing that others refer to: one step leads to the stream. When a.jpg gets a stream of
other bytes or none, b.jpg inherits the old one in the same commit, and c.jpg refers to b.jpg from then on. When it gets another
stream of the same bytes, b.jpg and c.jpg go on sharing it, and what their rows copy of it follows in the same commit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pipeline.archive.shard_reader import read_shard
from pipeline.errors import ArchiveDamagedError
from pipeline.records import BLOB_COLUMNS, EncodedPhoto, Outcome
from pipeline.storage.base import Storage

_OF_SOURCE = ("source_uri", "source_bytes", "source_sha256", "source_etag", "modified_at")


def holds(row: EncodedPhoto | None, sha256: str | None) -> bool:
    """Whether `row` has a stream of its own, made of the bytes with this digest."""
    return (
        row is not None
        and row.same_as is None
        and row.outcome is not Outcome.FAILED
        and sha256 is not None
        and row.source_sha256 == sha256
    )


def resolved(row: EncodedPhoto, holder: EncodedPhoto | None) -> EncodedPhoto:
    """`row` with what its holder tells of the stream: the stream itself, the metadata, the codec.

    Raises:
        ArchiveDamagedError: the holder is not there, or no longer has the stream.
    """
    if holder is None or not holds(holder, row.source_sha256):
        cure = "run it again, then photoark verify"
        raise ArchiveDamagedError(f"its stream is not with {row.same_as!r}, where it should be; {cure}", key=row.key)
    return replace(_with_source_of(holder, row), **_own(row))


def reference(row: EncodedPhoto, holder: EncodedPhoto) -> EncodedPhoto:
    """The row of a photo that is the same as that of `holder`: of its own are the key, the source and when it was written."""
    nothing: dict[str, Any] = dict.fromkeys(BLOB_COLUMNS)
    return replace(
        _with_source_of(holder, row),
        **nothing,
        **_own(row) | {"same_as": holder.key},
    )


def instead(old: EncodedPhoto, new: EncodedPhoto) -> EncodedPhoto:
    """What takes the place of `old`: `new`, or, where that says that the bytes are those of `old`, `old` with its source."""
    return _with_source_of(old, new) if new.same_as == old.key else new


def heirs(
    storage: Storage,
    rows: Mapping[str, EncodedPhoto],
    keys_in: Mapping[str, Collection[str]],
    references_in: Mapping[str, Mapping[str, str]],
) -> dict[str, EncodedPhoto]:
    """Rows that have to change because `rows` take away the streams that they refer to; with what `rows` tell of their source.

    Args:
        rows: key -> what takes the place of its row.
        keys_in: path of a shard -> keys of its rows. What lies in none of them cannot be inherited.
        references_in: path of a shard -> which of its rows, by key, are the same as which other.

    Raises:
        ArchiveDamagedError: a shard that has to be read is missing or damaged.
    """
    dependents: dict[str, dict[str, str]] = {}
    for path, references in references_in.items():
        for key, holder in references.items():
            is_kept = key not in rows or rows[key].same_as == key
            if holder in rows and rows[holder].same_as != holder and is_kept:
                dependents.setdefault(holder, {})[key] = path
    changed: dict[str, EncodedPhoto] = {}
    for holder, paths in dependents.items():
        at = next((path for path, keys in keys_in.items() if holder in keys), None)
        if at is None:
            continue
        (old,) = (row for row in read_shard(storage, at) if row.key == holder)
        left = [row for path in sorted(set(paths.values())) for row in read_shard(storage, path) if row.key in paths]
        left = sorted((row for row in left if holds(old, row.source_sha256)), key=lambda row: row.key)
        for i, row in enumerate(left):
            if holds(rows[holder], old.source_sha256):  # another stream of the same bytes: they go on sharing it
                new = reference(row, rows[holder])
            elif i == 0:
                new = replace(resolved(row, old), same_as=None)
            else:
                new = replace(row, same_as=left[0].key)
            changed[row.key] = instead(new, rows.get(row.key, new))
    return changed


def _own(row: EncodedPhoto) -> dict[str, Any]:
    """What a row that shares a stream does not share, apart from what it tells of its source."""
    return {name: getattr(row, name) for name in ("key", "same_as", "encoded_at", "encoder")}


def _with_source_of(row: EncodedPhoto, other: EncodedPhoto) -> EncodedPhoto:
    return replace(row, **{name: getattr(other, name) for name in _OF_SOURCE})
