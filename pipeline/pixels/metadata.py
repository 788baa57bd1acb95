"""EXIF, ICC, XMP and IPTC: taken out of a file verbatim, and put into the restored one.

    container      EXIF   ICC   XMP   IPTC                              which way is up, says
    JPEG           x      x     x     Photoshop's resources, APP13      EXIF
    PNG            x      x     x     a text profile, as ImageMagick's  EXIF
    WebP           x      x     x                                       EXIF
    TIFF           x      x     x     tag 33723                         EXIF
    HEIF, AVIF     x      x     x                                       the container: their EXIF's word does not count

Writing EXIF anew would lose maker notes, whose offsets count from its start: blocks are changed in place. A TIFF is one EXIF
directory, layout and all; of it goes along what describes the photo.

IPTC goes into no other container; of Photoshop's resources nothing else goes along, and neither do comments in a JPEG and
other texts in a PNG.
"""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any

import pillow_heif
from PIL import Image, JpegImagePlugin, PngImagePlugin

from pipeline.errors import UnsupportedPhotoError
from pipeline.pixels import exif as exif_block
from pipeline.pixels import jpeg_segments, tiff, xmp
from pipeline.records import PhotoMetadata

TURNED_BY_EXIF = frozenset({"JPEG", "PNG", "WEBP", "TIFF"})
"""Formats that a viewer turns by the orientation in EXIF or XMP: a restored file is turned as its source was."""


def read_metadata(image: Image.Image, data: bytes) -> PhotoMetadata:
    """Metadata blocks of an opened file.

    Args:
        data: the file.
    """
    info = _raw_info(image, data)
    exif = tiff.exif_of(data) if image.format == "TIFF" else info.get("exif") or _profile(info, "exif")
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp") or _profile(info, "xmp")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet) if packet else None
    segments = image.applist if isinstance(image, JpegImagePlugin.JpegImageFile) else []
    digest = xmp.extended_digest(packet) if packet and segments else None
    return PhotoMetadata(
        exif=bytes(exif).removeprefix(exif_block.PREFIX) or None if exif else None,
        icc=info.get("icc_profile") or None,
        xmp=packet,
        iptc=tiff.block_of(data, tiff.IPTC) if image.format == "TIFF" else _iptc(info, segments),
        xmp_extended=jpeg_segments.extended_xmp(segments, digest) if digest else None,
    )


def without_gps(metadata: PhotoMetadata) -> PhotoMetadata:
    """The same without GPS data in EXIF and XMP; a block that may hold some and cannot be understood is left out."""
    packet = xmp.without_gps(metadata.xmp) if metadata.xmp else None
    extended = xmp.without_gps(metadata.xmp_extended) if metadata.xmp_extended else None
    if packet and extended:
        packet = xmp.referring_to(packet, extended)
    return replace(
        metadata,
        exif=exif_block.without_gps(metadata.exif) if metadata.exif else None,
        xmp=packet,
        xmp_extended=extended,
    )


def may_hold_gps(data: bytes) -> bool:
    """Whether a file may hold GPS data in EXIF or XMP, anywhere, or may hide it under compression."""
    # Tag, type (a long, or a directory), count 1.
    tag_in_exif = [struct.pack(f"{order}HHI", exif_block.GPS_DIRECTORY, kind, 1) for order in "<>" for kind in (4, 13)]
    in_xmp = (b"GPSLat", b"GPSLon", b"GPSDest")
    compressed = (b"XML:com.adobe.xmp\0\1", b"Raw profile type ")
    return any(pattern in data for pattern in (*tag_in_exif, *in_xmp, *compressed))


def upright(metadata: PhotoMetadata) -> PhotoMetadata:
    """The same for pixels that are stored as displayed: orientation 1 in EXIF and XMP."""
    return replace(
        metadata,
        exif=exif_block.upright(metadata.exif) if metadata.exif else None,
        xmp=xmp.upright(metadata.xmp) if metadata.xmp else None,
    )


def one_packet(metadata: PhotoMetadata) -> PhotoMetadata:
    """The same with the two parts of a JPEG's XMP as one.

    Raises:
        UnsupportedPhotoError: they cannot be joined.
    """
    if not (metadata.xmp and metadata.xmp_extended):
        return metadata
    packet = xmp.joined(metadata.xmp, metadata.xmp_extended)
    if packet is None:
        raise UnsupportedPhotoError("its XMP is in two parts, which a JPEG alone can hold: restore it as JPEG")
    return replace(metadata, xmp=packet, xmp_extended=None)


def save_options(format: str, metadata: PhotoMetadata) -> dict[str, Any]:
    """Keyword arguments of Pillow's `save` that write `metadata` into a file of `format`; of TIFF, `tiff` does that."""
    options: dict[str, Any] = {}
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.exif:
        options["exif"] = exif_block.PREFIX + metadata.exif
    if format == "PNG":
        return options | {"pnginfo": _png_texts(metadata)}
    if metadata.xmp:
        options["xmp"] = metadata.xmp
    if format == "JPEG":
        digest = xmp.extended_digest(metadata.xmp or b"")
        options["extra"] = (jpeg_segments.iptc_segments(metadata.iptc) if metadata.iptc else b"") + (
            jpeg_segments.extended_xmp_segments(metadata.xmp_extended, digest) if metadata.xmp_extended and digest else b""
        )
    return options


def _raw_info(image: Image.Image, data: bytes) -> dict[str, Any]:
    """Pillow's `info`, but with EXIF and XMP as the file holds them: its plugins set the orientation in some."""
    if image.format not in ("HEIF", "AVIF"):
        return _text_keys(image)
    try:
        raw = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False).info
    except MemoryError:
        raise
    except Exception:  # of an AVIF, which libavif opened: libheif knows less of them
        return _text_keys(image)
    return _text_keys(image) | {name: raw[name] for name in ("exif", "xmp") if raw.get(name)}


def _text_keys(image: Image.Image) -> dict[str, Any]:
    return {key: value for key, value in image.info.items() if isinstance(key, str)}


def _png_texts(metadata: PhotoMetadata) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", errors="replace"))
    if metadata.iptc:
        block = jpeg_segments.resources_with(metadata.iptc)
        lines = "\n".join(block.hex()[at : at + 72] for at in range(0, 2 * len(block), 72))
        info.add_text("Raw profile type iptc", f"\niptc\n{len(block):8}\n{lines}\n", zip=True)
    return info


def _iptc(info: dict[str, Any], segments: list[tuple[str, bytes]]) -> bytes | None:
    if segments:
        return jpeg_segments.iptc_of(jpeg_segments.photoshop_resources(segments))
    profile = _profile(info, "iptc")
    return None if profile is None else jpeg_segments.iptc_of(profile) or profile


def _profile(info: dict[str, Any], name: str) -> bytes | None:
    """A profile that ImageMagick, or who does as it does, hid in a PNG's text: a name, a length, hexadecimal digits."""
    text = info.get(f"Raw profile type {name}")
    if not isinstance(text, str):
        return None
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) or None
    except ValueError:
        return None
