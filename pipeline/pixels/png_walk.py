"""The chunks of a PNG, and what follows its end. Source: W3C PNG, section 5."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})
"""Chunks without which the pixels would be others."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk; its checksum is not looked at."""

    kind: bytes
    payload: bytes
    whole: bytes
    """With length, type and checksum."""

    @property
    def is_critical(self) -> bool:
        """Whether no decoder may skip it."""
        return not self.kind[0] & 0x20


def walk(data: bytes) -> tuple[list[Chunk], bytes]:
    """Chunks up to the end, and what follows it; a chunk that is cut short ends the walk."""
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        chunks.append(Chunk(kind, data[at + 8 : at + 8 + size], data[at:end]))
        at = end
        if kind == b"IEND":
            return chunks, data[at:]
    return chunks, b""
