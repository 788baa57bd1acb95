"""Positions in EXIF: which entries of which directories are one, and a block without them.

Types are not trusted: readers follow a pointer to the GPS directory whatever its type is.
Sources: EXIF 2.32, section 4.6; GeoTIFF 1.1, annex; GDAL, "GTiff" driver; exiftool, `Kodak.pm`.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pipeline.pixels.metadata import coordinates

_GPS_DIRECTORY = 0x8825
_POINTERS = frozenset({0x8769, 0xA005, 0x014A, 0x8290})
"""To directories: EXIF, interoperability, others of a TIFF, Kodak's."""
_GEOTIFF = frozenset({33550, 33918, 33920, 33922, 34264, 34735, 34736, 34737, 42112, 50844})
"""Scale, tie points and matrix of a map, its keys, GDAL's notes, and a camera model in coordinates of the earth."""
_USER_COMMENT, _WINDOWS_TEXTS = 0x9286, range(0x9C9B, 0x9CA0)
_CHARACTER_CODE_BYTES = 8
"""Before the text of a UserComment."""
_KODAK_DIRECTORY, _KODAK_GPS = 0x8290, 0x0402
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8, 129: 1}
_SHORTS, _TEXTS = (3, 8), (2, 129)
_MAX_DIRECTORIES = 64
_MAX_TIFF_HEADERS = 256
"""More blocks in one file are not looked into."""
_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">"}
"""The latter two are wrong, and read all the same."""
_TIFF_HEADER = re.compile(rb"II\*\0|MM\0\*|II\0\*|MM\*\0")
_ENTRY = re.compile(rb"\x25\x88[\x01-\x12\x81]\0[\x01-\xff]\0\0\0|\x88\x25\0[\x01-\x12\x81]\0\0\0[\x01-\xff]")
"""A directory's entry for a GPS directory, of any type."""


def removed(exif: bytes) -> bytes | None:
    """An EXIF block of the same length, whose positions become zeros; None where it cannot be read."""
    directories = _directories(exif, 0)
    if directories is None:
        return None
    patched = bytearray(exif)
    for directory in directories:
        _clean_directory(patched, directory)
    return bytes(patched)


def in_bytes(data: bytes) -> bool:
    """Whether an EXIF block that stands anywhere in `data`, as that of a thumbnail or a second picture, holds a position."""
    if _ENTRY.search(data):
        return True
    for i, match in enumerate(_TIFF_HEADER.finditer(data)):
        if i == _MAX_TIFF_HEADERS or any(found.positions or found.texts for found in _directories(data, match.start()) or ()):
            return True
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directory:
    """One directory of an EXIF block, and where in it positions are noted."""

    at: int
    end: int
    """Behind its entries."""
    order: str
    positions: list[int]
    """Places of entries to remove."""
    texts: list[int]
    """Places of entries whose text is a coordinate."""


def _directories(data: bytes, start: int) -> list[_Directory] | None:
    """All directories of the EXIF block that begins at `start`; None where it is damaged, or has too many.

    Places count from the start of the block.
    """
    block = memoryview(data)[start:]
    order = _ORDERS.get(bytes(block[:4]))
    if order is None or len(block) < 8:
        return None
    (first,) = struct.unpack_from(order + "I", block, 4)
    if first + 2 > len(block):
        return None
    pending: list[tuple[int, int]] = [(first, 0)]
    found: dict[int, _Directory] = {}
    while pending:
        at, parent = pending.pop()
        if not at or at in found or at + 2 > len(block):
            continue
        (num_entries,) = struct.unpack_from(order + "H", block, at)
        end = at + 2 + 12 * num_entries
        if end > len(block) or len(found) == _MAX_DIRECTORIES:
            return None
        found[at] = directory = _Directory(at=at, end=end, order=order, positions=[], texts=[])
        for place in range(at + 2, end, 12):
            (tag,) = struct.unpack_from(order + "H", block, place)
            if tag == _GPS_DIRECTORY or tag in _GEOTIFF or (parent, tag) == (_KODAK_DIRECTORY, _KODAK_GPS):
                directory.positions.append(place)
            elif tag in _POINTERS:
                pending += [(offset, tag) for offset in _offsets(block, place, order)]
            elif _is_coordinate(block, place, order):
                directory.texts.append(place)
        if not parent and end + 4 <= len(block):
            pending.append((struct.unpack_from(order + "I", block, end)[0], 0))
    return list(found.values())


def _value(block: memoryview, place: int, order: str) -> tuple[int, int]:
    """Where the value of an entry begins and ends; nowhere if it would lie outside."""
    kind, count, offset = struct.unpack_from(order + "HII", block, place + 2)
    size = _TYPE_BYTES.get(kind, 4 if count == 1 else 0) * count
    start = place + 8 if size <= 4 else offset
    return (start, start + size) if start + size <= len(block) else (0, 0)


def _offsets(block: memoryview, place: int, order: str) -> list[int]:
    """What an entry points to, whatever its type: readers are as generous."""
    (kind,) = struct.unpack_from(order + "H", block, place + 2)
    start, end = _value(block, place, order)
    if kind in _SHORTS:
        return [struct.unpack_from(order + "H", block, start)[0]] if end - start >= 2 else []
    code, width = ("Q", 8) if _TYPE_BYTES.get(kind) == 8 else ("I", 4)
    return [struct.unpack_from(order + code, block, at)[0] for at in range(start, end - width + 1, width)]


def _is_coordinate(block: memoryview, place: int, order: str) -> bool:
    """Whether an entry is a text that is a coordinate and nothing else."""
    tag, kind = struct.unpack_from(order + "HH", block, place)
    start, end = _value(block, place, order)
    if tag == _USER_COMMENT:
        code, text = bytes(block[start:end][:_CHARACTER_CODE_BYTES]), bytes(block[start:end][_CHARACTER_CODE_BYTES:])
        decoded = text.decode("utf-16-le" if order == "<" else "utf-16-be", "replace") if code.startswith(b"UNICODE") else text
    elif tag in _WINDOWS_TEXTS:
        decoded = bytes(block[start:end]).decode("utf-16-le", "replace")
    elif kind in _TEXTS:
        decoded = bytes(block[start:end])
    else:
        return False
    return coordinates.is_coordinate(decoded.strip("\0 ") if isinstance(decoded, str) else decoded.strip(b"\0 "))


def _clean_directory(patched: bytearray, directory: _Directory) -> None:
    """Take positions out of a directory, in place."""
    at, end, order = directory.at, directory.end, directory.order
    exif = bytes(patched)
    for place in directory.positions:
        tag, kind, count, value = struct.unpack_from(order + "HHII", exif, place)
        if tag == _GPS_DIRECTORY:
            for offset in _offsets(memoryview(exif), place, order):
                _erase_directory(patched, offset, order)
        else:
            _erase_value(patched, kind, count, value)
    for place in directory.texts:
        start, stop = _value(memoryview(exif), place, order)
        patched[start:stop] = bytes(stop - start)
    if directory.positions:
        exif = bytes(patched)
        gone = set(directory.positions)
        left = b"".join(exif[place : place + 12] for place in range(at + 2, end, 12) if place not in gone)
        next_directory = exif[end : end + 4]
        size = end - at - 2 + len(next_directory)
        patched[at + 2 : end + len(next_directory)] = (left + next_directory).ljust(size, b"\0")
        struct.pack_into(order + "H", patched, at, len(left) // 12)


def _erase_directory(block: bytearray, at: int, order: str) -> None:
    """Zeros over a directory and over what its entries point to."""
    if at + 2 > len(block):
        return
    (num_entries,) = struct.unpack_from(order + "H", block, at)
    end = min(at + 2 + 12 * num_entries + 4, len(block))
    for place in range(at + 2, end - 11, 12):
        _, kind, count, value = struct.unpack_from(order + "HHII", block, place)
        _erase_value(block, kind, count, value)
    block[at:end] = bytes(end - at)


def _erase_value(block: bytearray, kind: int, count: int, at: int) -> None:
    size = _TYPE_BYTES.get(kind, 1) * count
    if size > 4 and at + size <= len(block):
        block[at : at + size] = bytes(size)
