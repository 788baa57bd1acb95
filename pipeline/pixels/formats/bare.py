"""A file of the same pixels without its metadata, for decoders: nothing odd in there can stop them, or turn the picture.

A file whose parts cannot be told apart comes back as it is, for the decoder to judge.
"""

from __future__ import annotations

import struct

from pipeline.pixels.formats import heif_items, jpeg_walk, png_walk, tiff, webp_walk
from pipeline.pixels.formats.containers import container_of

_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_APP14 = 0xEE
_JFIF_BYTES, _ADOBE_BYTES = 14, 12
"""Without the thumbnail. Decoders skip shorter ones, on which Pillow fails."""


def without_metadata(data: bytes) -> bytes:
    """The file that a decoder should see in place of `data`."""
    strip = _BY_CONTAINER.get(container_of(data) or "")
    try:
        return strip(data) if strip else data
    except (ValueError, IndexError, struct.error):
        return data


def _jpeg(data: bytes) -> bytes:
    walk = jpeg_walk.walk(data, is_whole=False)
    header = [part for segment in walk.segments if (part := _as_decoders_need(segment))]
    return b"".join((jpeg_walk.SIGNATURE, *header, memoryview(data)[walk.scan_at :]))


def _as_decoders_need(segment: jpeg_walk.Segment) -> bytes:
    """The segment as bytes of the file; none where decoders can do without."""
    marker, payload = segment.marker, segment.payload
    if jpeg_walk.APP0 <= marker <= jpeg_walk.APP15 or marker == jpeg_walk.COMMENT:
        if marker == jpeg_walk.APP0 and payload.startswith(_JFIF) and len(payload) >= _JFIF_BYTES:
            payload = payload[: _JFIF_BYTES - 2] + b"\0\0"
        elif not (marker == _APP14 and payload.startswith(_ADOBE) and len(payload) >= _ADOBE_BYTES):
            return b""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


_BY_CONTAINER = {
    "JPEG": _jpeg,
    "PNG": png_walk.without_metadata,
    "WEBP": webp_walk.without_metadata,
    "TIFF": tiff.with_layout_alone,
    "BMFF": heif_items.without_metadata,
}
