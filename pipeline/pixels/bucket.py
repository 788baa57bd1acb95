"""Which photos go through a network together: like padded shapes, bounded by pixels and not by their number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.pixels.padding import padded_size


def batches(shapes: Sequence[tuple[int, int]], *, multiple: int, max_pixels: int) -> list[list[int]]:
    """Indices of `shapes` in groups of one padded shape.

    Args:
        shapes: (height, width) of each photo.
        multiple: to which they will be padded.
        max_pixels: padded pixels of a group at most; a larger photo stands alone.
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (height, width) in enumerate(shapes):
        alike[padded_size(width, height, multiple)].append(index)
    groups: list[list[int]] = []
    for (width, height), indices in alike.items():
        size = max(1, max_pixels // (width * height))
        groups.extend(indices[i : i + size] for i in range(0, len(indices), size))
    return groups
