"""What a JPEG holds beside its picture, its metadata, and what is safe to drop.

Sources: T.871 (JFIF); CIPA DC-007 (MPF); names of segments as in exiftool's `JPEG.pm`.
"""

from __future__ import annotations

import struct

from pipeline.pixels.formats import dropped, jpeg_notes, tiff, unused
from pipeline.pixels.formats.jpeg_walk import APP0, APP15, COMMENT, Segment, walk
from pipeline.pixels.metadata import photoshop
from pipeline.pixels.metadata.exif import PREFIX
from pipeline.records import PhotoMetadata

_XMP, _EXTENSION = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_ICC, _MPF, _JFIF, _ADOBE, _PHOTOSHOP = b"ICC_PROFILE\0", b"MPF\0", b"JFIF\0", b"Adobe", b"Photoshop 3.0\0"
_EXTENSION_BYTES = len(_EXTENSION) + 40
_JFIF_BYTES, _ICC_BYTES, _ADOBE_BYTES = 14, len(_ICC) + 2, 12
_NUM_PICTURES = 0xB001
_OF_PICTURE = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDD}) - {0xC8, 0xCC}
_OF_PICTURE_IF_SHORT = {0xCC: 32, 0xDC: 2}
"""Conditions of arithmetic coding and the number of lines, which decoders skip: the most bytes of each."""
_GAIN_MAP = "an HDR gain map"
_NAMES = (
    ("APP1", PREFIX, "a second EXIF block"), ("APP1", _XMP, "a second XMP packet"),
    ("APP1", _EXTENSION, "extended XMP that is not whole"), ("APP2", _ICC, "an ICC profile that is not whole"),
    ("APP1", b"FLIR\0", "thermal data (FLIR)"), ("APP1", b"PARROT\0", "thermal data (Parrot)"),
    ("APP2", b"urn:iso:std:iso:ts:21496:-1", _GAIN_MAP), ("APP10", b"AROT\0", _GAIN_MAP),
    ("APP2", b"FPXR\0", "FlashPix data"), ("APP4", b"FPXR\0", "FlashPix data"), ("APP3", b"_JPSJPS_", "a stereo pair"),
    ("APP6", b"GoPro\0", "GoPro's data"), ("APP11", b"JP", "JUMBF boxes, such as C2PA or JPEG XT"),
    ("APP11", b"HDR_RI", "an HDR residual"),
)  # fmt: skip
"""For the reason. What is not listed here counts as well."""
_IN_XMP = (
    (b"hdrgm:Version", b"", _GAIN_MAP),
    (b"http://ns.google.com/photos/1.0/depthmap/", b":Data", "a depth map in its XMP"),
    (b"http://ns.google.com/photos/1.0/image/", b":Data", "another picture in its XMP"),
    (b"http://ns.google.com/photos/1.0/audio/", b":Data", "a sound in its XMP"),
)


def num_pictures(data: bytes) -> int:
    """How many pictures the file's index (MPF) lists; 1 without one.

    Raises:
        ValueError: its segments cannot be told apart.
    """
    return max(
        [1, *(_listed(segment.payload) or 1 for segment in walk(data, is_whole=False).segments if _is(segment, "APP2", _MPF))]
    )


def more_than_picture(data: bytes, metadata: PhotoMetadata) -> str | None:
    """The first part that is left over, in words.

    Raises:
        ValueError: its segments cannot be told apart.
    """
    parts = walk(data)
    for reason in (_gain_map(parts.segments), _in_xmp(metadata)):
        if reason:
            return reason
    resources = b"".join(segment.payload[len(_PHOTOSHOP) :] for segment in parts.segments if _is(segment, "APP13", _PHOTOSHOP))
    travelling = _Travelling(metadata)
    for segment in parts.segments:
        if not (travelling.takes(segment) or _is_dropped(segment)):
            return f"{_name(segment)} (a segment {segment.name} of {len(segment.payload)} bytes)"
    if parts.between.strip(b"\0"):
        return f"{len(parts.between)} bytes between its segments"
    return more_than_iptc(resources, metadata) or dropped.trailer(parts.rest)


def more_than_iptc(block: bytes, metadata: PhotoMetadata) -> str | None:
    """What of Photoshop's resources neither travels nor is safe to drop."""
    found, rest = photoshop.resources(block)
    for signature, number, content in found:
        is_iptc = number == photoshop.IPTC and content in (metadata.iptc or b"")
        is_again = content in (metadata.xmp, metadata.icc, metadata.exif)
        if not (is_iptc or is_again or dropped.is_harmless_resource(signature, number, content)):
            return f"a resource of Photoshop's ({signature.decode('ascii')} {number}, {len(content)} bytes)"
    return f"{len(rest)} bytes behind Photoshop's resources" if rest.strip(b"\0") else None


def _gain_map(segments: list[Segment]) -> str | None:
    # Before all else: such a file may be said to hold several pictures, too.
    names = [(name, start) for name, start, what in _NAMES if what == _GAIN_MAP]
    return _GAIN_MAP if any(_is(segment, name, start) for segment in segments for name, start in names) else None


def _in_xmp(metadata: PhotoMetadata) -> str | None:
    text = (metadata.xmp or b"") + (metadata.xmp_extended or b"")
    return next((what for space, name, what in _IN_XMP if space in text and name in text), None)


class _Travelling:
    """Holds segments against the blocks of metadata that were made of them, in order."""

    def __init__(self, metadata: PhotoMetadata) -> None:
        self._metadata = metadata
        self._exif_at = 0

    def takes(self, segment: Segment) -> bool:
        """Whether the segment's content is in the metadata."""
        payload, metadata = segment.payload, self._metadata
        if _is(segment, "APP1", PREFIX):
            block, exif = payload[len(PREFIX) :], metadata.exif or b""
            is_next = exif.startswith(block, self._exif_at)
            self._exif_at += len(block) if is_next else 0
            return is_next or block == exif
        if _is(segment, "APP1", _XMP):
            return payload[len(_XMP) :] == (metadata.xmp or b"")
        if _is(segment, "APP1", _EXTENSION):
            offset = int.from_bytes(payload[_EXTENSION_BYTES - 4 : _EXTENSION_BYTES], "big")
            return (metadata.xmp_extended or b"").startswith(payload[_EXTENSION_BYTES:], offset)
        if _is(segment, "APP2", _ICC):
            return metadata.icc is not None
        return _is(segment, "APP13", _PHOTOSHOP)  # resource by resource


def _is_dropped(segment: Segment) -> bool:
    payload = segment.payload
    if not (APP0 <= segment.marker <= APP15 or segment.marker == COMMENT):
        return segment.marker in _OF_PICTURE or len(payload) <= _OF_PICTURE_IF_SHORT.get(segment.marker, -1)
    if _is(segment, "APP0", _JFIF):
        thumbnail = 3 * payload[12] * payload[13] if len(payload) >= _JFIF_BYTES else 0
        return len(payload) <= _JFIF_BYTES + thumbnail
    if _is(segment, "APP2", _MPF):
        return _listed(payload) is not None and _is_index_alone(payload[len(_MPF) :])
    if _is(segment, "APP14", _ADOBE):
        return not payload[_ADOBE_BYTES:].strip(b"\0")
    return not payload.strip(b"\0") or jpeg_notes.is_dropped(segment)


def _listed(payload: bytes) -> int | None:
    """Number of pictures in an MPF index; None if it cannot be read."""
    block = payload[len(_MPF) :]
    if (order := tiff.byte_order(block)) is None:
        return None
    try:
        entries = tiff.read_directory(block, struct.unpack_from(order + "I", block, 4)[0], order)
    except ValueError:
        return None
    found = [entry.value for entry in entries if entry.tag == _NUM_PICTURES and len(entry.value) == 4]
    return int(struct.unpack(order + "I", found[0])[0]) if found else None


def _is_index_alone(block: bytes) -> bool:
    """Whether an MPF index holds no more than its directories and what they refer to, beside zeros."""
    order = tiff.byte_order(block)
    assert order is not None
    used = [(0, tiff.HEADER_BYTES)]
    (at,) = struct.unpack_from(order + "I", block, 4)
    seen: set[int] = set()
    while at and at not in seen and at + 2 <= len(block):
        seen.add(at)
        (num_entries,) = struct.unpack_from(order + "H", block, at)
        end = at + 2 + 12 * num_entries
        used += [
            (at, end + 4),
            *((entry.start, entry.start + len(entry.value)) for entry in tiff.read_directory(block, at, order)),
        ]
        at = struct.unpack_from(order + "I", block, end)[0] if end + 4 <= len(block) else 0
    return not unused.content(block, used)


def _is(segment: Segment, name: str, start: bytes) -> bool:
    return segment.name == name and segment.payload.startswith(start)


def _name(segment: Segment) -> str:
    return next((what for name, start, what in _NAMES if _is(segment, name, start)), "data that is not known here")
