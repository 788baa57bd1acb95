"""Taking positions out of metadata, and finding out whether a file may hold one (`--strip-gps`).

A position is a coordinate, a height, or the identifier of a mobile network's cell. Names of places are none: cities, countries
and places stay, in XMP, IPTC and maker notes, and so does a sentence that a person wrote.

    EXIF   the GPS directory, wherever a directory points to one; GeoTIFF's and GDAL's tags; texts that are a coordinate
    XMP    properties by what their names mean, in every namespace, and by their values (`xmp_positions`)
    IPTC   keywords and other datasets that are a coordinate, such as geo:lat=48.1

A file that is stored as it is must pass the same parsers without a change. What they do not reach (second pictures, comments,
other containers) is searched for directories with positions, for names of positions, and for coordinates in readable text.

Sources of names: exiftool's tag tables; GeoTIFF 1.1, annex; the machine tags of photo sites; RFC 5870 (geo URI).
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace

from pipeline.errors import PhotoError
from pipeline.pixels.formats import dropped, jpeg_walk, png_chunks, tiff
from pipeline.pixels.formats.containers import container_of
from pipeline.pixels.formats.metadata import read_metadata
from pipeline.pixels.metadata import coordinates, exif_positions, xmp, xmp_positions
from pipeline.records import PhotoMetadata

_IPTC_MARK, _IPTC_HEADER = 0x1C, 5

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
    metadata = read_metadata(data)
    try:
        if without_gps(metadata) != metadata:
            return True
    except PhotoError:
        return True
    if data.startswith(tiff.BIG) or _is_seen_in(data) or coordinates.in_bytes(data):
        return True
    container = container_of(data)
    if container == "PNG":
        return any(text is None or _is_in_text(text) for text in png_chunks.plain_texts(data))
    return container == "JPEG" and _has_unknown_parts(data)


def exif_without_gps(exif: bytes) -> bytes | None:
    """An EXIF block of the same length without positions, whose bytes become zeros; nothing else moves.

    Returns:
        None where the block cannot be read, or something in it still looks like a position, as in a thumbnail of its own EXIF.
    """
    patched = exif_positions.removed(exif)
    return None if patched is None or _is_seen_in(patched) else patched


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
        if not coordinates.is_coordinate(iptc[start:end]):
            kept += iptc[at:end]
        at = end
    return kept + iptc[at:] or None


def _is_seen_in(data: bytes) -> bool:
    return (
        exif_positions.in_bytes(data)
        or any(pattern in data for pattern in _UNREADABLE)
        or any(pattern.search(data) for pattern in _OTHERS)
        or xmp_positions.in_bytes(data)
    )


def _is_in_text(text: bytes) -> bool:
    """Whether a text of a PNG, with its keyword, or a block of metadata that it holds, may be a position."""
    keyword, mark, value = text.partition(b"\0")
    name = keyword.rpartition(b":")[2].replace(b" ", b"")
    is_named = bool(mark) and (xmp_positions.is_position(b"", name) or coordinates.is_coordinate(value))
    return is_named or _is_seen_in(text) or coordinates.mentions_coordinate(text)


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
