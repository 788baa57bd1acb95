"""What a file holds beside one picture of 8-bit colours, so that the picture alone must not stand for it."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import pillow_heif
from PIL import Image, JpegImagePlugin

from pipeline.pixels.jpeg_segments import after_end

# fmt: off
RAW_SUFFIXES = frozenset({
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw",
    "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
})
# fmt: on
"""Of cameras' raw files, most of which look like a TIFF with a small picture in it, or like nothing known here."""
_GAIN_MAP_IN_XMP, _GAIN_MAP_IN_APP2 = b"hdrgm:Version", b"urn:iso:std:iso:ts:21496:-1"
# Primaries of BT.709, which sRGB shares, and curves near sRGB's, by their numbers in ITU-T H.273; 2 is "not said".
_PLAIN_PRIMARIES, _PLAIN_CURVES = (1, 2), (1, 2, 6, 13, 14, 15)
_SRGB_CHROMATICITIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_SRGB_GAMMA = 1 / 2.2


def is_raw(key: str) -> bool:
    """Whether a file bears the name of a camera's raw file."""
    return key.rpartition("/")[2].lower().rpartition(".")[2] in RAW_SUFFIXES


def more_than_pixels(image: Image.Image, data: bytes) -> str | None:
    """Why the pixels of an opened file alone would not be that file; None when they are.

    Args:
        data: the file.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _jpeg(image, data)
    if image.format in ("HEIF", "AVIF"):
        return _heif(image, data)
    if image.format == "PNG":
        return _png(image, data)
    return None


def _jpeg(image: JpegImagePlugin.JpegImageFile, data: bytes) -> str | None:
    for name, segment in image.applist:
        if (name == "APP1" and _GAIN_MAP_IN_XMP in segment) or (name == "APP2" and segment.startswith(_GAIN_MAP_IN_APP2)):
            return "an HDR gain map"
    rest = after_end(data)
    if b"ftyp" in rest or b"\xff\xd8\xff" in rest:
        return "a film or another picture after the first, as in motion photos"
    return None


def _heif(image: Image.Image, data: bytes) -> str | None:
    if any(kind == b"mpvd" for kind in _boxes(data)):
        return "a film after the picture, as in motion photos"
    try:
        info: dict[str, Any] = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False).info
    except MemoryError:
        raise
    except Exception:  # of an AVIF, which libavif opened: libheif knows less of them
        return None if image.format == "HEIF" else "parts that are not known here"
    if any("gainmap" in kind.lower() for kind in info.get("aux", ())) or b"tmap" in data[: 1 << 16]:
        return "an HDR gain map"
    if info.get("depth_images"):
        return "a depth map"
    if info.get("aux"):
        return f"other pictures beside it ({', '.join(sorted(info['aux']))})"
    colours = info.get("nclx_profile")
    if colours and not image.info.get("icc_profile"):
        primaries, curve = colours["color_primaries"], colours["transfer_characteristics"]
        if primaries not in _PLAIN_PRIMARIES or curve not in _PLAIN_CURVES:
            return f"colours by numbers alone (primaries {primaries}, transfer {curve}), without an ICC profile"
    return None


def _png(image: Image.Image, data: bytes) -> str | None:
    info = image.info
    if any(kind == b"cICP" for kind in _chunks(data)):
        return "colours by numbers (cICP), which only a PNG holds"
    if info.get("icc_profile") or "srgb" in info:
        return None
    whites = info.get("chromaticity", _SRGB_CHROMATICITIES)
    is_plain = abs(info.get("gamma", _SRGB_GAMMA) - _SRGB_GAMMA) < 0.01 and all(
        abs(found - expected) < 0.002 for found, expected in zip(whites, _SRGB_CHROMATICITIES, strict=True)
    )
    return None if is_plain else "colours by numbers (gAMA, cHRM), which only a PNG holds"


def _boxes(data: bytes) -> Iterator[bytes]:
    """Types of the outermost boxes of an ISO base media file."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size < 8:  # to the end of the file, or nonsense
            return
        at += size


def _chunks(data: bytes) -> Iterator[bytes]:
    """Types of a PNG's chunks before its pixels."""
    at = 8
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return
        yield kind
        at += 12 + size
