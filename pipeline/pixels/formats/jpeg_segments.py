"""Metadata in the segments of a JPEG: EXIF of several segments, IPTC, both parts of XMP; and what follows its end.

Sources: ITU-T T.81, annex B; IPTC-IIM in Photoshop's image resources (Adobe, "Photoshop File Formats"); XMP specification,
part 3, section 1.1.3.1 (extended XMP); exiftool, `ExifTool.pm` (EXIF of several segments), `Photoshop.pm` (signatures).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from pipeline.pixels.metadata import photoshop
from pipeline.pixels.metadata.exif import PREFIX

XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_ICC = b"ICC_PROFILE\0"
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_RESOURCE = b"8BIM"
_TIFF = (b"II*\0", b"MM\0*")
_MOST = 65_533
"""Bytes of a segment beside its marker and length."""
MAX_XMP_BYTES = _MOST - len(XMP_HEADER)
"""Of a packet in a single segment."""


def iptc_of(resources: bytes) -> bytes | None:
    """IPTC datasets in a block of Photoshop's image resources; None where there are none."""
    found, _ = photoshop.resources(resources)
    return (
        b"".join(content for signature, number, content in found if (signature, number) == (_RESOURCE, photoshop.IPTC)) or None
    )


def resources_with(iptc: bytes) -> bytes:
    """A block of Photoshop's image resources that holds `iptc` and nothing else."""
    return _RESOURCE + struct.pack(">HHI", photoshop.IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) & 1)


def exif_of(segments: Iterable[tuple[str, bytes]]) -> bytes | None:
    """The EXIF block of a JPEG, put together where it fills several segments; of two whole ones the first.

    Args:
        segments: names and payloads, as Pillow lists them (`applist`).
    """
    found: list[bytes] = []
    for name, data in segments:
        is_exif = name == "APP1" and data.startswith(PREFIX)
        block = data.removeprefix(PREFIX)
        if found and (not is_exif or block.startswith(_TIFF)):
            break
        if is_exif:
            found.append(block)
    return b"".join(found) or None


def xmp_of(segments: Iterable[tuple[str, bytes]]) -> bytes | None:
    """The XMP packet of a JPEG, the first part where there are two; of several packets the last."""
    found = [data.removeprefix(XMP_HEADER) for name, data in segments if name == "APP1" and data.startswith(XMP_HEADER)]
    return next((packet for packet in reversed(found) if packet), None)


def icc_of(segments: Iterable[tuple[str, bytes]]) -> bytes | None:
    """The ICC profile of a JPEG, put together; None where it is not whole."""
    start = len(_ICC)
    parts = sorted(
        data[start:] for name, data in segments if name == "APP2" and data.startswith(_ICC) and len(data) > start + 2
    )
    if [part[0] for part in parts] != list(range(1, len(parts) + 1)) or any(part[1] != len(parts) for part in parts):
        return None
    return b"".join(part[2:] for part in parts) or None


def exif_segments(exif: bytes) -> bytes:
    """Segments that hold an EXIF block, as bytes of the file: more than one where it is longer than a segment."""
    return b"".join(_segment(0xE1, PREFIX + part) for _, part in _parts(exif, _MOST - len(PREFIX)))


def photoshop_resources(segments: Iterable[tuple[str, bytes]]) -> bytes:
    """The block of Photoshop's image resources of a JPEG, put together."""
    return b"".join(data.removeprefix(_PHOTOSHOP) for name, data in segments if name == "APP13" and data.startswith(_PHOTOSHOP))


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
    return b"".join(_segment(0xED, _PHOTOSHOP + part) for _, part in _parts(resources_with(iptc), _MOST - len(_PHOTOSHOP)))


def extended_xmp_segments(extended: bytes, digest: bytes) -> bytes:
    """Segments that hold the second part of XMP, as bytes of the file."""
    start = _EXTENSION + digest
    return b"".join(
        _segment(0xE1, start + struct.pack(">II", len(extended), offset) + part)
        for offset, part in _parts(extended, _MOST - len(start) - 8)
    )


def _parts(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    return ((at, data[at : at + size]) for at in range(0, len(data), size))


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
