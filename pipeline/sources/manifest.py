"""What a job has to do: the photos of a source, less those that the archive already holds."""

from __future__ import annotations

from collections.abc import Set

import pyarrow as pa

from pipeline.records import Photo, photos_to_table
from pipeline.sources.folder import list_photos


def build_manifest(source: str, done: Set[str]) -> pa.Table:
    """Photos of `source` whose key is not in `done`, sorted by key (`MANIFEST_SCHEMA`).

    Raises:
        SettingError: the source does not exist.
        StorageError: it cannot be listed.
    """
    return photos_to_table(photo for photo in list_photos(source) if photo.key not in done)


def blocks(photos: list[Photo], *, max_photos: int, max_bytes: int) -> list[list[Photo]]:
    """Contiguous runs of `photos`, each at most so many and (one larger photo aside) so many bytes."""
    runs: list[list[Photo]] = []
    size_bytes = 0
    for photo in photos:
        if not runs or len(runs[-1]) >= max_photos or size_bytes + photo.size_bytes > max_bytes:
            runs.append([])
            size_bytes = 0
        runs[-1].append(photo)
        size_bytes += photo.size_bytes
    return runs
