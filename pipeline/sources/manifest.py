"""How the photos that a job has to do are cut into blocks."""

from __future__ import annotations

from pipeline.records import Photo

_BLOCKS_EACH = 4
"""That are left for each taker when they begin to get smaller: it may hold three."""


def blocks(
    photos: list[Photo], *, max_photos: int, max_bytes: int, min_photos: int = 1, num_takers: int = 1
) -> list[list[Photo]]:
    """Contiguous runs of `photos`, each at most so many and (one larger photo aside) so many bytes.

    Where several take them, the last runs are smaller, so that all end at about the same time, however fast each of them is.

    Args:
        min_photos: that runs are made smaller to.
    """
    runs: list[list[Photo]] = []
    size_bytes = most = 0
    for i, photo in enumerate(photos):
        if not runs or len(runs[-1]) >= most or size_bytes + photo.size_bytes > max_bytes:
            runs.append([])
            size_bytes = 0
            share = max(min_photos, (len(photos) - i) // (_BLOCKS_EACH * num_takers))
            most = max_photos if num_takers == 1 else min(max_photos, share)
        runs[-1].append(photo)
        size_bytes += photo.size_bytes
    return runs
