"""Taking positions out of metadata, and finding out whether a file may hold one (`--strip-gps`).

A position is a coordinate, a height, or the identifier of a mobile network's cell. Names of places are none: cities, countries
and places stay, in XMP, IPTC and maker notes, and so does what a person wrote.

    EXIF   the GPS directory, wherever a directory points to one; GeoTIFF's tags
    XMP    properties by what their names mean, in every namespace (`xmp_positions`)
    IPTC   keywords and other datasets that are a coordinate, such as geo:lat=48.1

Sources of names: exiftool's tag tables; GeoTIFF 1.1, annex; the machine tags of photo sites; RFC 5870 (geo URI).
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace

from pipeline.errors import PhotoError
from pipeline.pixels.formats import dropped, jpeg_walk, png_chunks
from pipeline.pixels.formats.containers import container_of
from pipeline.pixels.formats.tiff import byte_order
from pipeline.pixels.metadata import xmp, xmp_positions
from pipeline.records import PhotoMetadata

GPS_DIRECTORY = 0x8825
_POINTERS = frozenset({0x8769, 0xA005, 0x014A, 0x8290})
"""To directories: EXIF, interoperability, others of a TIFF, Kodak's."""
_GEOTIFF = frozenset({33550, 33920, 33922, 34264, 34735, 34736, 34737, 50844})
"""Scale, tie points and matrix of a map, its keys, and a camera model in coordinates of the earth."""
_KODAK_DIRECTORY, _KODAK_GPS = 0x8290, 0x0402
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_LONG, _DIRECTORY = 4, 13
_MAX_DIRECTORIES = 64
_IPTC_MARK, _IPTC_HEADER = 0x1C, 5

_ENTRIES = tuple(
    struct.pack(f"{order}HH{count}", GPS_DIRECTORY, kind, 1)
    for order in "<>"
    for count, kinds in (("I", (4, 13)), ("Q", (4, 13, 16, 18)))
    for kind in kinds
)
"""A directory's entry for a GPS directory, in a TIFF or a BigTIFF."""
_UNREADABLE = (b"x\0m\0p\0m\0e\0t\0a\0", b"brobExif", b"brobxml ", b"deflate\0")
"""XMP in UTF-16, metadata under the compression of JPEG XL and of HEIF: not looked into."""
_OTHERS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # A map's tie points or matrix.
        rb"\x82\x84\x0c\0.\0\0\0", rb"\xd8\x85\x0c\0.\0\0\0", rb"\x84\x82\0\x0c\0\0\0", rb"\x85\xd8\0\x0c\0\0\0",
        # A film.
        rb"ftyp(?<=\0\0\0[\x08-\x40]ftyp)(?!mif1|msf1|hei[cxms]|hev[cx]|avi[fs]|jxl )", rb"moov.{4}mvhd",
    )
)  # fmt: skip
_KNOWN_SEGMENTS = re.compile(
    rb"\xe0(?:JFIF|JFXX|AMPF|AVI1)|\xe1(?:Exif\0\0|http://ns\.adobe\.com/)|\xe2(?:ICC_PROFILE\0|MPF\0|urn:iso:)|\xeaAROT\0"
    rb"|\xebJP|\xecDucky|\xed(?:Photoshop 3\.0\0|Adobe_CM)|\xeeAdobe|\xefQ"
)
"""Of a JPEG, by marker and payload: those that hold no position, or one that the patterns find."""


def without_gps(metadata: PhotoMetadata) -> PhotoMetadata:
    """The same without positions in EXIF, XMP and IPTC.

    Raises:
        PhotoError: a block cannot be read, so that nobody can tell what is in it.
    """
    packet = _understood(xmp_positions.removed(metadata.xmp), "XMP") if metadata.xmp else None
    extended = _understood(xmp_positions.removed(metadata.xmp_extended), "XMP") if metadata.xmp_extended else None
    if packet and extended:
        packet = xmp.referring_to(packet, extended)
    return replace(
        metadata,
        exif=_understood(exif_without_gps(metadata.exif), "EXIF") if metadata.exif else None,
        xmp=packet,
        xmp_extended=extended,
        iptc=iptc_without_gps(metadata.iptc) if metadata.iptc else None,
    )


def may_hold_gps(data: bytes) -> bool:
    """Whether a file that is kept as it is may hold a position, anywhere in it, or something that cannot be looked into."""
    if _is_seen_in(data):
        return True
    container = container_of(data)
    if container == "PNG":
        return any(text is None or _is_seen_in(text) for text in png_chunks.plain_texts(data))
    return container == "JPEG" and _has_unknown_parts(data)


def exif_without_gps(exif: bytes) -> bytes | None:
    """An EXIF block of the same length without positions, whose bytes become zeros; nothing else moves.

    Returns:
        None where the block cannot be read, or something in it still looks like a position, as in a thumbnail of its own EXIF.
    """
    order = byte_order(exif)
    if order is None:
        return None
    patched = bytearray(exif)
    left = [(struct.unpack_from(order + "I", exif, 4)[0], 0)]
    if left[0][0] + 2 > len(exif):
        return None
    seen: set[int] = set()
    while left:
        at, parent = left.pop()
        if at in seen:
            continue
        seen.add(at)
        found = _clean_directory(patched, exif, at, order, parent)
        if found is None or len(seen) > _MAX_DIRECTORIES:
            return None
        left += found
    return None if _is_seen_in(bytes(patched)) else bytes(patched)


def iptc_without_gps(iptc: bytes) -> bytes | None:
    """IPTC datasets without those that are a coordinate; None where no other is there."""
    kept, at = b"", 0
    while at + _IPTC_HEADER <= len(iptc) and iptc[at] == _IPTC_MARK:
        (size,) = struct.unpack_from(">H", iptc, at + 3)
        start = at + _IPTC_HEADER
        if size & 0x8000:  # the length has a length
            digits = size & 0x7FFF
            size, start = int.from_bytes(iptc[start : start + digits], "big"), start + digits
        end = start + size
        if not xmp_positions.is_coordinate(iptc[start:end]):
            kept += iptc[at:end]
        at = end
    return kept + iptc[at:] or None


def _is_seen_in(data: bytes) -> bool:
    return (
        any(pattern in data for pattern in (*_ENTRIES, *_UNREADABLE))
        or any(pattern.search(data) for pattern in _OTHERS)
        or xmp_positions.in_bytes(data)
    )


def _has_unknown_parts(jpeg: bytes) -> bool:
    """Whether a JPEG holds segments, or data behind the picture, of makers who may note positions in a form of their own."""
    try:
        parts = jpeg_walk.walk(jpeg)
    except ValueError:
        return True
    rest = parts.rest.strip(*dropped.PADDING.values())
    if rest and not rest.startswith(jpeg_walk.SIGNATURE) and not dropped.is_harmless_of_samsung(parts.rest):
        return True
    return any(
        jpeg_walk.APP0 <= segment.marker <= jpeg_walk.APP15
        and segment.payload.strip(b"\0")
        and not _KNOWN_SEGMENTS.match(bytes([segment.marker]) + segment.payload)
        for segment in parts.segments
    )


def _understood(block: bytes | None, name: str) -> bytes:
    if block is None:
        raise PhotoError(f"its {name} may hold a position that cannot be removed; without --strip-gps it is stored as it is")
    return block


def _clean_directory(patched: bytearray, exif: bytes, at: int, order: str, parent: int) -> list[tuple[int, int]] | None:
    """Take positions out of the directory at an offset.

    Returns:
        Where others lie, and the tags that point to them; None where this one is cut short.
    """
    if not at or at + 2 > len(exif):
        return []
    (num_entries,) = struct.unpack_from(order + "H", exif, at)
    start, end = at + 2, at + 2 + 12 * num_entries
    if end > len(exif):
        return None
    left, others = b"", []
    for place in range(start, end, 12):
        tag, kind, count, value = struct.unpack_from(order + "HHII", exif, place)
        if tag == GPS_DIRECTORY:
            _erase_directory(patched, value, order)
        elif tag in _GEOTIFF or (parent, tag) == (_KODAK_DIRECTORY, _KODAK_GPS):
            _erase_value(patched, kind, count, value)
        else:
            left += exif[place : place + 12]
            if tag in _POINTERS and kind in (_LONG, _DIRECTORY):
                size = 4 * count
                where = exif[place + 8 : place + 12] if count == 1 else exif[value : value + size]
                others += [(offset, tag) for (offset,) in struct.iter_unpack(order + "I", where[: len(where) & ~3])]
    if len(left) != end - start:
        next_directory = exif[end : end + 4]
        patched[start : end + len(next_directory)] = (left + next_directory).ljust(end - start + len(next_directory), b"\0")
        struct.pack_into(order + "H", patched, at, len(left) // 12)
    if not parent and end + 4 <= len(exif):
        others.append((struct.unpack_from(order + "I", exif, end)[0], 0))
    return others


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
