"""The read stage: source files' bytes, each whole and of one version, and whether they have to be encoded at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.archive.versions import is_same_time
from pipeline.errors import StorageError
from pipeline.logs import about
from pipeline.on_ray.work import READ_S
from pipeline.pixels.formats.probe import DEFAULT_LIMITS
from pipeline.records import Photo, photos_from_table, photos_to_table
from pipeline.storage.base import fetch

Claim = Callable[[Sequence[tuple[str, str]]], Sequence[str]]
KNOWN = "known_sha256"
"""Column of the manifest that the read stage alone looks at: SHA-256 of what the archive's row was made of; may be missing."""
_ADDED = pa.schema(
    [
        pa.field("data", pa.large_binary()),
        pa.field("sha256", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("same_as", pa.string()),
        pa.field(READ_S, pa.float64()),
    ]
)


def read_block(table: pa.Table, claim: Claim | None = None, max_bytes: int = DEFAULT_LIMITS.max_bytes) -> pa.Table:
    """Add to manifest rows `data`, `sha256` and, where a file cannot be read, `reason`.

    A photo that need not be encoded has no data, and its `same_as` says which row has its stream: its own, where the bytes are
    those that `KNOWN` promises, or that of the first photo with these bytes. Size, time and tag become those of the version
    that was read, where the file changed since it was listed.

    Args:
        claim: where photos of the same bytes are to share a stream: (SHA-256, key) of each -> key of the photo to encode.
        max_bytes: larger files are not read.
    """
    read = [_read(photo, max_bytes) for photo in photos_from_table(table)]
    known = table[KNOWN].to_pylist() if KNOWN in table.column_names else [None] * len(read)
    for item, sha256 in zip(read, known, strict=True):
        if item.sha256 is not None and item.sha256 == sha256:
            item.same_as, item.data = item.photo.key, None
    fresh = [item for item in read if item.data is not None]
    if claim is not None and fresh:
        holders = claim([(item.sha256, item.photo.key) for item in fresh if item.sha256 is not None])
        for item, holder in zip(fresh, holders, strict=True):
            if holder != item.photo.key:
                item.same_as, item.data = holder, None
    table = photos_to_table([item.photo for item in read])
    for field in _ADDED:
        table = table.append_column(field, pa.array([getattr(item, field.name) for item in read], field.type))
    return table


@dataclass(slots=True)
class _Item:
    photo: Photo
    """As it was when it was read."""
    data: bytes | None = None
    sha256: str | None = None
    reason: str | None = None
    same_as: str | None = None
    read_s: float = 0.0


def _read(photo: Photo, max_bytes: int) -> _Item:
    if photo.size_bytes > max_bytes:
        limit = f"the limit of {max_bytes >> 20} MiB"
        if max_bytes < DEFAULT_LIMITS.max_bytes:
            limit += ", a 16th of this machine's memory"
        return _Item(photo, reason=f"the file has {photo.size_bytes >> 20} MiB, more than {limit}")
    started_s = time.perf_counter()
    try:
        with about(key=photo.key, stage="read"):
            found = fetch(photo.uri)
    except StorageError as error:
        return _Item(photo, reason=error.message, read_s=time.perf_counter() - started_s)
    read_s = time.perf_counter() - started_s
    photo = replace(photo, size_bytes=len(found.data), etag=found.etag)
    listed, read = photo.modified_at, found.modified_at
    if read is not None and listed is not None and not is_same_time(read, listed, exact="://" not in photo.uri):
        photo = replace(photo, modified_at=read)
    return _Item(photo, data=found.data, sha256=hashlib.sha256(found.data).hexdigest(), read_s=read_s)
