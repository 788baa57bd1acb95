"""How the photos that a job has to do are cut into blocks."""

from __future__ import annotations

from pipeline.records import Photo


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
