"""Small changes to an EXIF block, in place: nothing moves, so that offsets inside maker notes stay true.

A block is a TIFF file of directories (EXIF 2.32, section 4.5; TIFF 6.0, section 2). Damaged ones come back as they were.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112
EMPTY = b"II*\0\x08\0\0\0" + bytes(6)
"""A directory of no entries, and no other."""
_SHORT = 3
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8: the first value of an entry of any integer type, and of several entries the last.

    1 where there is none, or none that makes sense.
    """
    found = 1
    for at, tag, kind, order in _entries(exif):
        if tag == ORIENTATION and kind in _INTEGERS:
            code = order + _INTEGERS[kind]
            (count, offset) = struct.unpack_from(order + "II", exif, at + 4)
            size = struct.calcsize(code) * count
            place = at + 8 if size <= 4 else offset
            if count and place + struct.calcsize(code) <= len(exif):
                (found,) = struct.unpack_from(code, exif, place)
    return found if 1 <= found <= 8 else 1


def upright(exif: bytes) -> bytes:
    """The same block with orientation 1, whatever type it had; unchanged where it holds none or cannot be parsed."""
    patched = bytearray(exif)
    for at, tag, _, order in _entries(exif):
        if tag == ORIENTATION:
            struct.pack_into(order + "HIHH", patched, at + 2, _SHORT, 1, 1, 0)
    return bytes(patched)


def _entries(exif: bytes) -> Iterator[tuple[int, int, int, str]]:
    """(offset, tag, type, byte order) of each entry of the first directory that lies wholly inside the block."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return
    (directory,) = struct.unpack_from(order + "I", exif, 4)
    if directory + 2 > len(exif):
        return
    (num_entries,) = struct.unpack_from(order + "H", exif, directory)
    for at in range(directory + 2, min(directory + 2 + 12 * num_entries, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, at)
        yield at, tag, kind, order
