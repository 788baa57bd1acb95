"""The segments of a whole JPEG, in its scans' headers too, and what follows its end. Source: ITU-T T.81, annex B."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

SIGNATURE = b"\xff\xd8"
APP0, APP15, COMMENT = 0xE0, 0xEF, 0xFE
_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker and what its length spans."""

    marker: int
    payload: bytes

    @property
    def name(self) -> str:
        """As Pillow and exiftool name it."""
        if APP0 <= self.marker <= APP15:
            return f"APP{self.marker - APP0}"
        return "COM" if self.marker == COMMENT else f"marker {self.marker:02X}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The parts of a JPEG."""

    segments: list[Segment]
    """Up to the end of the picture, but for the markers that have no length."""
    scan_at: int
    """Where the first scan's marker stands."""
    between: bytes
    """Bytes between segments that belong to none."""
    rest: bytes
    """Behind the picture's end; empty where the end is missing."""


def walk(data: bytes, *, is_whole: bool = True) -> Walk:
    """Take a JPEG apart.

    Args:
        is_whole: False to stop at the first scan, whose bytes are most of the file.

    Raises:
        ValueError: it has no scan, or a segment's length is impossible or exceeds the file.
    """
    segments: list[Segment] = []
    between, scan_at, at = bytearray(), -1, len(SIGNATURE)
    while True:
        match = (_MARKER if scan_at < 0 else _MARKER_IN_SCAN).search(data, at)
        if match is None or (scan_at < 0 and match.end() + 2 > len(data)):
            break
        if scan_at < 0:
            between += data[at : match.start()].strip(b"\xff")
        marker, at = data[match.end() - 1], match.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in _ALONE:
            continue
        if at + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2 or at + length > len(data):
            if scan_at >= 0:
                break
            raise ValueError(f"a segment of {length} bytes")
        if marker == _START_OF_SCAN and scan_at < 0:
            scan_at = match.start()
            if not is_whole:
                match = None
                break
        segments.append(Segment(marker, data[at + 2 : at + length]))
        at += length
    if scan_at < 0:
        raise ValueError("no picture")
    ended = match is not None and data[match.end() - 1] == _END_OF_IMAGE
    return Walk(
        segments=segments,
        scan_at=scan_at,
        between=bytes(between),
        rest=data[at:] if ended else b"",
    )
