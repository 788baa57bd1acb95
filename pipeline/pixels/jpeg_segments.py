"""What a JPEG holds beside EXIF, ICC and one XMP packet: IPTC, the second part of XMP, and what follows its end.

Sources: ITU-T T.81, annex B; IPTC-IIM in Photoshop's image resources (Adobe, "Photoshop File Formats"); XMP specification,
part 3, section 1.1.3.1 (extended XMP).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

PHOTOSHOP = b"Photoshop 3.0\0"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_RESOURCE, _IPTC = b"8BIM", 0x0404
_MOST = 65_533
"""Bytes of a segment beside its marker and length."""
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END_OF_IMAGE = 0xD9


def iptc_of(resources: bytes) -> bytes | None:
    """IPTC datasets in a block of Photoshop's image resources; None where there are none."""
    at, found = 0, b""
    while resources[at : at + 4] == _RESOURCE and at + 7 <= len(resources):
        (kind,) = struct.unpack_from(">H", resources, at + 4)
        at += 6 + ((resources[at + 6] + 2) & ~1)  # a name, counted and padded
        if at + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">I", resources, at)
        if kind == _IPTC:
            found += resources[at + 4 : at + 4 + size]
        at += 4 + size + (size & 1)
    return found or None


def resources_with(iptc: bytes) -> bytes:
    """A block of Photoshop's image resources that holds `iptc` and nothing else."""
    return _RESOURCE + struct.pack(">HHI", _IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) & 1)


def photoshop_resources(segments: Iterable[tuple[str, bytes]]) -> bytes:
    """The block of Photoshop's image resources of a JPEG, put together.

    Args:
        segments: names and payloads, as Pillow lists them (`applist`).
    """
    return b"".join(data.removeprefix(PHOTOSHOP) for name, data in segments if name == "APP13" and data.startswith(PHOTOSHOP))


def extended_xmp(segments: Iterable[tuple[str, bytes]], digest: bytes) -> bytes | None:
    """The second part of a JPEG's XMP, put together; None where it is not whole.

    Args:
        digest: its MD5, 32 digits, which the first part names.
    """
    start = len(_EXTENSION)
    found = b""
    for _, offset, part in sorted(
        (data[start : start + 32], struct.unpack_from(">I", data, start + 36)[0], data[start + 40 :])
        for name, data in segments
        if name == "APP1" and data.startswith(_EXTENSION) and len(data) >= start + 40
        if data[start : start + 32].upper() == digest
    ):
        if offset != len(found):
            return None
        found += part
    return found or None


def iptc_segments(iptc: bytes) -> bytes:
    """Segments that hold `iptc`, as bytes of the file."""
    return b"".join(_segment(0xED, PHOTOSHOP + part) for _, part in _parts(resources_with(iptc), _MOST - len(PHOTOSHOP)))


def extended_xmp_segments(extended: bytes, digest: bytes) -> bytes:
    """Segments that hold the second part of XMP, as bytes of the file."""
    start = _EXTENSION + digest
    return b"".join(
        _segment(0xE1, start + struct.pack(">II", len(extended), offset) + part)
        for offset, part in _parts(extended, _MOST - len(start) - 8)
    )


def after_end(data: bytes) -> bytes:
    """What follows the first picture of a JPEG; empty where its end is not found."""
    at = 2
    while (match := _NEXT_MARKER.search(data, at)) is not None:
        at, marker = match.end(), data[match.end() - 1]
        if marker == _END_OF_IMAGE:
            return data[at:]
        if at + 2 > len(data):
            break
        # After the header of a scan the search goes on through its entropy-coded bytes, where 0xFF is followed by 0.
        at += struct.unpack_from(">H", data, at)[0]
    return b""


def _parts(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    return ((at, data[at : at + size]) for at in range(0, len(data), size))


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
