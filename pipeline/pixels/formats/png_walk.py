"""The chunks of a PNG, and what follows its end. Source: W3C PNG, section 5."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""Chunks without which the pixels would be others."""
_CLEAR_COLOUR_BYTES = {0: 2, 2: 6}
"""Of a tRNS chunk, by the colour type: grey, RGB."""


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


def without_metadata(data: bytes) -> bytes:
    """The same picture alone: the one that shows where animations are not supported."""
    chunks = [chunk for chunk in walk(data)[0] if chunk.is_critical or chunk.kind in PICTURE]
    clear_bytes = _CLEAR_COLOUR_BYTES.get(data[25])
    # Pillow fails on a tRNS chunk that other decoders skip.
    told = [chunk for chunk in chunks if chunk.kind != b"tRNS" or clear_bytes in (None, chunk.num_bytes)]
    return SIGNATURE + b"".join(chunk.whole for chunk in told)


def num_pictures(data: bytes) -> int:
    """How many frames an animation claims to have, two at least; 1 of a PNG that is none."""
    frames = [int.from_bytes(chunk.payload[:4], "big") for chunk in walk(data)[0] if chunk.kind == b"acTL"]
    return max([2, *frames]) if frames else 1
