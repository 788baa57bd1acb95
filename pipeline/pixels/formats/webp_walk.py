"""The chunks of a WebP, and what follows its end. Source: RFC 9649, section 2."""

from __future__ import annotations

import struct

PICTURE = frozenset({b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
"""Chunks without which the pixels would be others."""
HAS_ICC, HAS_EXIF, HAS_XMP = 0x20, 0x08, 0x04
"""In the first byte of VP8X: decoders skip what it does not announce."""
_OF_PICTURE = 0x10 | 0x02
"""Transparency and animation."""


def is_webp(data: bytes) -> bool:
    """Whether it begins as a WebP does."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def walk(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Type and payload of each chunk, and what follows the end; a chunk that is cut short ends the walk."""
    (length,) = struct.unpack_from("<I", data, 4)
    end = min(8 + length + (length & 1), len(data))
    chunks: list[tuple[bytes, bytes]] = []
    at = 12
    while at + 8 <= end:
        kind, size = struct.unpack_from("<4sI", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += 8 + size + (size & 1)
    return chunks, data[end:]


def without_metadata(data: bytes) -> bytes:
    """The same picture alone."""
    body = b"WEBP"
    for kind, payload in walk(data)[0]:
        if kind == b"VP8X" and payload:
            payload = bytes([payload[0] & _OF_PICTURE]) + payload[1:]
        if kind in PICTURE:
            body += kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body
