"""A photo, in files whose metadata is put there by hand, byte for byte."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
EXIF = b"Exif\0\0"
XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTO = Path(__file__).parents[1] / "photos" / "bridge.jpg"


def photo(width: int = 240, height: int = 160) -> Image.Image:
    """A small photo without any metadata."""
    with Image.open(_PHOTO) as image:
        return Image.fromarray(np.asarray(image.convert("RGB").resize((width, height))))


def saved(picture: Image.Image, format: str, **options: Any) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.copy().save(buffer, format, **options)
    return buffer.getvalue()


def segment(marker: int, payload: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def chunk(kind: bytes, payload: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + payload) if checksum is None else checksum
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


def riff_chunk(kind: bytes, payload: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) & 1)


def in_jpeg(jpeg: bytes, *segments: bytes) -> bytes:
    """The file with further segments at its start."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def in_png(png: bytes, *chunks: bytes) -> bytes:
    """The file with further chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def in_webp(webp: bytes, flags: int, *chunks: bytes) -> bytes:
    """The file, of one VP8 chunk, as an extended one with further chunks."""
    width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", webp, 26))
    canvas = bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + riff_chunk(b"VP8X", canvas) + webp[12:] + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def in_tiff(tiff: bytes, tag: int, kind: int, count: int, value: bytes) -> bytes:
    """The file with a further tag in its directory."""
    order = "<" if tiff[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    (num_entries,) = struct.unpack_from(order + "H", tiff, at)
    tiff += bytes(len(tiff) & 1)
    place = len(tiff)
    tiff += value + bytes(len(value) & 1)
    entries = [tiff[start : start + 12] for start in range(at + 2, at + 2 + 12 * num_entries, 12)]
    field = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", place)
    entries.append(struct.pack(order + "HHI", tag, kind, count) + field)
    entries.sort(key=lambda entry: struct.unpack_from(order + "H", entry)[0])
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack(order + "I", len(tiff)) + tiff[8:] + directory


def orientation_block(kind: int, value: bytes, *, count: int = 1, order: str = "<") -> bytes:
    """An EXIF block that holds a make and an orientation, of any type and value."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    place = 8 + 2 + 24 + 4
    make = struct.pack(order + "HHI", 0x010F, 2, 4) + b"Acm\0"
    field = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", place)
    entry = struct.pack(order + "HHI", 0x0112, kind, count) + field
    return head + struct.pack(order + "H", 2) + make + entry + bytes(4) + (value if len(value) > 4 else b"")
