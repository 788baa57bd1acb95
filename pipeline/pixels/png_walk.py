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
    file: bytes
    start: int
    """Of its length, in the file."""
    end: int
    """Behind its checksum."""

    @property
    def payload(self) -> bytes:
        """What it holds."""
        return self.file[self.start + 8 : max(self.start + 8, self.end - 4)]

    @property
    def whole(self) -> memoryview:
        """With length, type and checksum."""
        return memoryview(self.file)[self.start : self.end]

    @property
    def num_bytes(self) -> int:
        """Length of the payload."""
        return self.end - self.start - 12

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
        chunks.append(Chunk(kind, data, at, at + 12 + size))
        at += 12 + size
        if kind == b"IEND":
            return chunks, data[at:]
    return chunks, b""
