"""Segments of a JPEG that are safe to drop, if they hold what their name says and no more.

Sources: T.871, section 10.2 (JFXX); exiftool, `JPEG.pm`, `APP12.pm` (Ducky) and `Scalado.pm`.
"""

from __future__ import annotations

import re
import struct

from pipeline.pixels.formats.dropped import JPEG_SEGMENTS
from pipeline.pixels.formats.jpeg_walk import APP0, APP15, SIGNATURE, Segment, walk

_JFXX, _UNICODE, _DUCKY, _SCALADO = b"JFXX\0", b"UNICODE\0", b"Ducky", b"SCALADO\0"
_JPEG, _PALETTE, _RGB = 0x10, 0x11, 0x13
_PALETTE_BYTES = 768
_MOST_BYTES = {b"AMPF\0": 32, b"AVI1": 16, b"Adobe_CM": 12}
"""Of notes of fixed length, without padding."""
_QUALITY, _QUALITY_BYTES = 1, 4
_SCALADO_HEADER, _RECORD_BYTES = struct.Struct(">HHI"), 12
_MAX_SEGMENTS, _MAX_SEGMENT_BYTES = 64, 65_533
_RECORD_NAME = re.compile(rb"[A-Z0-9]{4}")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0e-\x1f]")


def is_dropped(segment: Segment) -> bool:
    """Whether a segment is one of those listed in `dropped`, of the length and content that they have."""
    payload = segment.payload
    if not any(pattern.match(bytes([segment.marker]) + payload) for pattern in JPEG_SEGMENTS.values()):
        return False
    for start, check in ((_JFXX, _is_thumbnail), (_UNICODE, _is_text), (_DUCKY, _is_quality), (_SCALADO, _is_index)):
        if payload.startswith(start):
            return check(payload[len(start) :])
    most = next((most for start, most in _MOST_BYTES.items() if payload.startswith(start)), len(payload))
    return not payload[most:].strip(b"\0")


def _is_thumbnail(content: bytes) -> bool:
    kind = content[:1]
    if kind == bytes([_JPEG]):
        return _is_picture_alone(content[1:])
    if len(content) < 3 or kind not in (bytes([_PALETTE]), bytes([_RGB])):
        return False
    num_pixels = content[1] * content[2]
    size = 3 + (3 * num_pixels if kind == bytes([_RGB]) else _PALETTE_BYTES + num_pixels)
    return len(content) >= size and not content[size:].strip(b"\0")


def _is_picture_alone(jpeg: bytes) -> bool:
    if not jpeg.startswith(SIGNATURE):
        return False
    try:
        parts = walk(jpeg)
    except ValueError:
        return False
    notes = [
        part for part in parts.segments if APP0 <= part.marker <= APP15 and not part.payload.startswith((b"JFIF\0", b"Adobe"))
    ]
    return not (notes or parts.rest.strip(b"\0") or parts.between.strip(b"\0"))


def _is_text(content: bytes) -> bool:
    try:
        return any(_CONTROL.search(content.decode(encoding)) is None for encoding in ("utf-16-be", "utf-16-le"))
    except UnicodeDecodeError:
        return False


def _is_quality(content: bytes) -> bool:
    """Whether Ducky's records are the quality alone: others are a comment and a copyright."""
    at = 0
    while at + 4 <= len(content):
        kind, size = struct.unpack_from(">HH", content, at)
        if not kind:
            break
        if (kind, size) != (_QUALITY, _QUALITY_BYTES):
            return False
        at += 4 + size
    return not content[at:].strip(b"\0")


def _is_index(content: bytes) -> bool:
    """Whether Scalado's records fill the segment, beside the data whose length the first of them says.

    An index of several segments is numbered, and has its records in the first one.
    """
    if len(content) < _SCALADO_HEADER.size + _RECORD_BYTES:
        return False
    num_segments, number, total = _SCALADO_HEADER.unpack_from(content)
    records = content[_SCALADO_HEADER.size :]
    if not (number < num_segments and len(records) <= total <= num_segments * _MAX_SEGMENT_BYTES):
        return False
    if number:
        return num_segments <= _MAX_SEGMENTS
    if not records.startswith(b"SPMO") or (num_segments == 1 and len(records) != total):
        return False
    version, length = struct.unpack_from(">II", records, 4)
    end = total - length if version < 5 else length + _RECORD_BYTES
    names = [records[at : at + 4] for at in range(0, min(end, len(records)), _RECORD_BYTES)]
    return 0 < end <= len(records) and end % _RECORD_BYTES == 0 and all(_RECORD_NAME.fullmatch(name) for name in names)
