"""TIFF directories, entry by entry and byte by byte: of a TIFF what describes the photo, and an EXIF block with pixels.

A TIFF is one directory in which layout (strips, compression) and what EXIF says stand side by side, and an EXIF block is a TIFF
without pixels. Entries travel as bytes: decoding and encoding values anew would change types and lose maker notes.
Source: TIFF 6.0, section 2; EXIF 2.32, section 4.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from pipeline.pixels.metadata import resolution
from pipeline.pixels.metadata.resolution import Resolution
from pipeline.records import PhotoMetadata

HEADER_BYTES = 8
BIG = (b"II+\0", b"MM\0+")
"""How a BigTIFF begins, whose offsets have 64 bits: nothing here reads its directories."""
_MAGIC = {"<": b"II*\0", ">": b"MM\0*"}
_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
SUB_DIRECTORIES = frozenset({_EXIF_DIRECTORY, _GPS_DIRECTORY, _INTEROPERABILITY})
"""Tags whose value is where another directory lies: EXIF, GPS, interoperability."""
XMP, IPTC, ICC, PHOTOSHOP = 700, 33723, 34675, 34377
# Sizes, strips, tiles, compression, palettes: what Pillow's file of the pixels has of its own.
_LAYOUT = frozenset(
    {
        *range(254, 267), 273, *range(277, 282), 284, 288, 289, 292, 293, 317, *range(320, 329), 330, 332, 334,
        *range(338, 342), 347, *range(512, 522), *range(529, 533), 50674,
    }
)  # fmt: skip
_STRIP_OFFSETS, _STRIP_BYTES = 273, 279
_MORE_DIRECTORIES = 330
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_RESOLUTION = (282, 283, 296)
"""Two sides and their unit."""
_INCH = 2
_SHORT, _RATIONAL = 3, 5
_LONG, _UNDEFINED, _BYTE = 4, 7, 1
_CODES = {1: "B", 3: "H", 4: "I"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a directory."""

    tag: int
    kind: int
    """Type of its values, 1 to 13."""
    count: int
    value: bytes
    """In the byte order of the file."""
    start: int = 0
    """Where the value stands in the file."""


def byte_order(data: bytes) -> str | None:
    """`<` or `>`, for `struct`; None of what is no classic TIFF."""
    # The latter two are wrong, and read all the same.
    order = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">"}.get(data[:4])
    return order if len(data) >= HEADER_BYTES else None


def read_directory(data: bytes, at: int, order: str) -> list[Entry]:
    """Entries of the directory at an offset, but for those that point out of the file or have no known type.

    Raises:
        ValueError: they hold more than the file, so they overlap: copied, it could grow without bound.
    """
    if at + 2 > len(data):
        return []
    (num_entries,) = struct.unpack_from(order + "H", data, at)
    entries, held = [], 0
    for place in range(at + 2, min(at + 2 + 12 * num_entries, len(data) - 11), 12):
        tag, kind, count, offset = struct.unpack_from(order + "HHII", data, place)
        size = _TYPE_BYTES.get(kind, 0) * count
        start = place + 8 if size <= 4 else offset
        if size and start + size <= len(data):
            held += size
            if held > len(data):
                raise ValueError("its entries overlap")
            entries.append(Entry(tag, kind, count, data[start : start + size], start))
    return entries


def write_directory(entries: Iterable[Entry], at: int, order: str) -> bytes:
    """A directory for an even offset `at`, its values behind it, and no next one."""
    entries = sorted(entries, key=lambda entry: entry.tag)
    table, values = struct.pack(order + "H", len(entries)), b""
    behind = at + 2 + 12 * len(entries) + 4
    for entry in entries:
        table += struct.pack(order + "HHI", entry.tag, entry.kind, entry.count)
        if len(entry.value) <= 4:
            table += entry.value.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", behind + len(values))
            values += entry.value + bytes(len(entry.value) & 1)
    return table + bytes(4) + values


def exif_of(data: bytes) -> bytes | None:
    """What describes the photo in a TIFF, as an EXIF block; None where nothing does."""
    if (order := byte_order(data)) is None:
        return None
    blocks = {XMP, IPTC, ICC, PHOTOSHOP}
    entries = [entry for entry in _first(data, order) if entry.tag not in _LAYOUT | blocks]
    if not entries:
        return None
    body = b""
    moved = []
    for entry in entries:
        if entry.tag in SUB_DIRECTORIES:
            body, entry = _copied(data, entry, order, body)
        moved.append(entry)
    directory = HEADER_BYTES + len(body)
    return _MAGIC[order] + struct.pack(order + "I", directory) + body + write_directory(moved, directory, order)


def with_layout_alone(data: bytes) -> bytes:
    """The same file with nothing but layout in its first directory, which is the only one: the same pixels for decoders.

    Raises:
        ValueError: entries overlap.
    """
    order = byte_order(data)
    assert order is not None
    at = len(data) + (len(data) & 1)
    layout = [entry for entry in _first(data, order) if entry.tag in _LAYOUT and entry.tag != _MORE_DIRECTORIES]
    rest = memoryview(data)[HEADER_BYTES:]  # of large files, copied once
    head = data[:4] + struct.pack(order + "I", at)
    return b"".join((head, rest, bytes(at - len(data)), write_directory(layout, at, order)))


def tags_of(data: bytes) -> frozenset[int]:
    """Tags of the first directory; none of what is no TIFF."""
    order = byte_order(data)
    try:
        return frozenset(entry.tag for entry in _first(data, order)) if order else frozenset()
    except ValueError:
        return frozenset()


def block_of(data: bytes, tag: int) -> bytes | None:
    """Bytes of one entry of a TIFF's first directory, whatever type it claims; programs declare IPTC as integers."""
    order = byte_order(data)
    found = [entry.value for entry in _first(data, order) if entry.tag == tag] if order else []
    return found[0] if found else None


def resolution_of(data: bytes) -> Resolution | None:
    """The print resolution that a TIFF or an EXIF block notes."""
    if (order := byte_order(data)) is None:
        return None
    try:
        entries = {entry.tag: entry for entry in _first(data, order)}
        x, y = (Fraction(*struct.unpack(order + "II", entries[tag].value)) for tag in _RESOLUTION[:2])
        unit = numbers(entries[_RESOLUTION[2]], order)[0] if _RESOLUTION[2] in entries else _INCH
    except (KeyError, ValueError, struct.error, ZeroDivisionError):
        return None
    return resolution.of_tiff(x, y, unit)


def with_pixels(pixels: bytes, metadata: PhotoMetadata) -> bytes:
    """A TIFF of the pixels of one that Pillow wrote and of metadata, whose EXIF block stands at its start as it is.

    Args:
        pixels: a TIFF in strips, with nothing but layout in its first directory.

    Raises:
        ValueError: entries of the EXIF block overlap.
    """
    exif = metadata.exif
    if exif is None or byte_order(exif) is None:
        exif = b"II*\0" + struct.pack("<I", 0)
    order, theirs = byte_order(exif), byte_order(pixels)
    assert order is not None and theirs is not None
    start = len(exif) + (len(exif) & 1)
    file = bytearray(exif.ljust(start, b"\0"))
    layout = {entry.tag: entry for entry in _first(pixels, theirs) if entry.tag in _LAYOUT}
    offsets, sizes = (numbers(layout[tag], theirs) for tag in (_STRIP_OFFSETS, _STRIP_BYTES))
    placed = []
    for offset, size in zip(offsets, sizes, strict=True):
        placed.append(len(file))
        file += pixels[offset : offset + size] + bytes(size & 1)
    entries = [_in_order(entry, theirs, order) for entry in layout.values() if entry.tag != _STRIP_OFFSETS]
    entries.append(Entry(_STRIP_OFFSETS, _LONG, len(placed), struct.pack(f"{order}{len(placed)}I", *placed)))
    blocks = ((XMP, _BYTE, metadata.xmp), (IPTC, _UNDEFINED, metadata.iptc), (ICC, _UNDEFINED, metadata.icc))
    entries += [Entry(tag, kind, len(block), block) for tag, kind, block in blocks if block]
    entries += _of_resolution(resolution.parse(metadata.resolution), resolution_of(exif), order)
    # Of what is there twice, such as the width, the pixels' own word counts.
    taken = {entry.tag for entry in entries} | _LAYOUT
    entries += [entry for entry in _first(exif, order) if entry.tag not in taken]
    struct.pack_into(order + "I", file, 4, len(file))
    return bytes(file) + write_directory(entries, len(file), order)


def _of_resolution(found: Resolution | None, in_exif: Resolution | None, order: str) -> list[Entry]:
    """Entries of a print resolution, unless EXIF, whose entries go into the same directory, says the same or says more."""
    if found is None or str(found) == str(in_exif) or (found.unit is None and in_exif is not None):
        return []
    x, y, unit = resolution.as_tiff(found)
    if max(x.numerator, y.numerator) >= 1 << 32:
        return []
    sides = (
        Entry(tag, _RATIONAL, 1, struct.pack(order + "II", *side.as_integer_ratio()))
        for tag, side in zip(_RESOLUTION, (x, y), strict=False)
    )
    return [*sides, Entry(_RESOLUTION[2], _SHORT, 1, struct.pack(order + "H", unit))]


def _first(data: bytes, order: str) -> list[Entry]:
    (at,) = struct.unpack_from(order + "I", data, 4)
    return read_directory(data, at, order) if at else []


def _copied(data: bytes, entry: Entry, order: str, body: bytes) -> tuple[bytes, Entry]:
    """`body` with the directory that `entry` points to behind it, and the entry that points there."""
    if len(entry.value) != 4:
        return body, entry
    entries = []
    for inner in read_directory(data, struct.unpack(order + "I", entry.value)[0], order):
        if (entry.tag, inner.tag) == (_EXIF_DIRECTORY, _INTEROPERABILITY):
            body, inner = _copied(data, inner, order, body)
        entries.append(inner)
    at = HEADER_BYTES + len(body)
    return body + write_directory(entries, at, order), replace(entry, value=struct.pack(order + "I", at))


def numbers(entry: Entry, order: str) -> tuple[int, ...]:
    """Values of an entry of bytes, shorts or longs.

    Raises:
        ValueError: it is of another type.
    """
    if entry.kind not in _CODES:
        raise ValueError(f"tag {entry.tag} holds no whole numbers")
    return struct.unpack(f"{order}{entry.count}{_CODES[entry.kind]}", entry.value)


def _in_order(entry: Entry, theirs: str, order: str) -> Entry:
    if theirs == order:
        return entry
    return replace(entry, value=struct.pack(f"{order}{entry.count}{_CODES[entry.kind]}", *numbers(entry, theirs)))
