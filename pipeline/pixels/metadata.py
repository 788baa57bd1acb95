"""EXIF, ICC and XMP: taken out of a file verbatim, and put into the restored one.

Only one thing changes on the way back: the orientation becomes 1, since the pixels are stored as displayed. The tag is
patched in place; writing EXIF anew would lose maker notes.
"""

from __future__ import annotations

import struct
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin

from pipeline.records import PhotoMetadata

_ORIENTATION = 0x0112
_SHORT = 3
_TIFF_XMP = 700
_EXIF_PREFIX = b"Exif\0\0"
# What of a TIFF's own directory describes the photo and not the layout of the file.
_TIFF_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, _ORIENTATION)


def read_metadata(image: Image.Image) -> PhotoMetadata:
    """Metadata blocks of an opened file."""
    exif = _tiff_exif(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else image.info.get("exif")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return PhotoMetadata(
        exif=bytes(exif).removeprefix(_EXIF_PREFIX) or None if exif else None,
        icc=image.info.get("icc_profile") or None,
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp) if xmp else None,
    )


def save_options(format: str, metadata: PhotoMetadata) -> dict[str, Any]:
    """Keyword arguments of Pillow's `save` that write `metadata` into a file of `format`."""
    options: dict[str, Any] = {}
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.exif:
        block = upright(metadata.exif)
        if format == "TIFF":
            exif = Image.Exif()
            exif.load(_EXIF_PREFIX + block)
            options["exif"] = exif
        else:
            options["exif"] = _EXIF_PREFIX + block
    if metadata.xmp:
        if format == "PNG":
            info = PngImagePlugin.PngInfo()
            info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", errors="replace"))
            options["pnginfo"] = info
        elif format == "TIFF":
            options["tiffinfo"] = {_TIFF_XMP: metadata.xmp}
        else:
            options["xmp"] = metadata.xmp
    return options


def upright(exif: bytes) -> bytes:
    """The same EXIF block with orientation 1; unchanged where it holds none or cannot be parsed."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return exif
    (directory,) = struct.unpack_from(order + "I", exif, 4)
    if directory + 2 > len(exif):
        return exif
    (num_entries,) = struct.unpack_from(order + "H", exif, directory)
    for entry in range(directory + 2, min(directory + 2 + 12 * num_entries, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == _ORIENTATION and kind == _SHORT:
            patched = bytearray(exif)
            struct.pack_into(order + "H", patched, entry + 8, 1)
            return bytes(patched)
    return exif


def _tiff_exif(image: Image.Image) -> bytes | None:
    """A TIFF is one EXIF directory, layout tags included: take those that describe the photo."""
    source = image.getexif()
    exif = Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in source:
            exif[tag] = source[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        entries = source.get_ifd(ifd)
        if entries:
            exif.get_ifd(ifd).update(entries)
    return exif.tobytes() if len(exif) else None
