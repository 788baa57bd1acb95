"""Parts of a file that nothing in it refers to."""

from __future__ import annotations

from collections.abc import Iterable

_MAX_GAP_BYTES = 3
"""What programs leave between parts to align them, not always as zeros."""


def content(data: bytes, used: Iterable[tuple[int, int]], *, start: int = 0, end: int | None = None) -> int:
    """Number of bytes between two places that lie in no range of `used` and are no padding.

    Args:
        used: start and end of each range, in any order; they may overlap.
    """
    end = len(data) if end is None else end
    found, at = 0, start
    for first, last in sorted([*used, (end, end)]):
        if first > at:
            gap = data[at : min(first, end)]
            found += len(gap) if len(gap) > _MAX_GAP_BYTES and gap.strip(b"\0") else 0
        at = max(at, last)
        if at >= end:
            break
    return found
