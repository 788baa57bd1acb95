"""EXIF, ICC, XMP and IPTC: taken out of a file verbatim, and put into the restored one.

    container      EXIF   ICC   XMP   IPTC                              which way is up, says
    JPEG           x      x     x     Photoshop's resources, APP13      EXIF
    PNG            x      x     x     a text profile, as ImageMagick's  EXIF
    WebP           x      x     x                                       EXIF
    TIFF           x      x     x     tag 33723, or 34377 (Photoshop's) EXIF
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
from pipeline.pixels import jpeg_segments, png_chunks, tiff, xmp
from pipeline.records import PhotoMetadata

TURNED_BY_EXIF = frozenset({"JPEG", "PNG", "WEBP", "TIFF"})
"""Formats that a viewer turns by the orientation in EXIF or XMP: a restored file is turned as its source was."""


def read_metadata(image: Image.Image, data: bytes) -> PhotoMetadata:
    """Metadata blocks of an opened file.

    Args:
        data: the file.

    Raises:
        UnsupportedPhotoError: a block is larger than any that is expected when decompressed.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _of_jpeg(image)
    if image.format == "PNG":
        return png_chunks.metadata_of(data)
    if image.format == "TIFF":
        return _of_tiff(image, data)
    return _of_other(image, data)


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


def in_parts_of(format: str, metadata: PhotoMetadata) -> PhotoMetadata:
    """The same with its XMP in as many parts as files of a format hold: two where a JPEG's segment is too short for one.

    Raises:
        UnsupportedPhotoError: the parts cannot be joined, or a packet cannot be divided.
    """
    fits = len(metadata.xmp or b"") <= jpeg_segments.MAX_XMP_BYTES
    if metadata.xmp is None or (fits if format == "JPEG" else metadata.xmp_extended is None):
        return metadata
    packet = xmp.joined(metadata.xmp, metadata.xmp_extended) if metadata.xmp_extended else metadata.xmp
    if packet is None:
        raise UnsupportedPhotoError(f"the two parts of its XMP cannot be joined, which a {format} file would need")
    if format != "JPEG":
        return replace(metadata, xmp=packet, xmp_extended=None)
    if (parts := xmp.divided(packet)) is None:
        raise UnsupportedPhotoError("its XMP is longer than a segment of a JPEG, and cannot be read to divide it")
    return replace(metadata, xmp=parts[0], xmp_extended=parts[1])


def save_options(format: str, metadata: PhotoMetadata) -> dict[str, Any]:
    """Keyword arguments of Pillow's `save` that write `metadata` into a file of `format`; of TIFF, `tiff` does that."""
    options: dict[str, Any] = {}
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if format == "PNG":
        chunks = PngImagePlugin.PngInfo()
        if metadata.xmp:
            chunks.add(*png_chunks.xmp_chunk(metadata.xmp))
        if metadata.iptc:
            chunks.add(*png_chunks.iptc_chunk(metadata.iptc))
        options["pnginfo"] = chunks
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    if format == "JPEG":
        # Pillow writes EXIF of a single segment only.
        digest = xmp.extended_digest(metadata.xmp or b"")
        options["extra"] = b"".join(
            (
                jpeg_segments.exif_segments(metadata.exif) if metadata.exif else b"",
                jpeg_segments.iptc_segments(metadata.iptc) if metadata.iptc else b"",
                jpeg_segments.extended_xmp_segments(metadata.xmp_extended, digest) if metadata.xmp_extended and digest else b"",
            )
        )
    elif metadata.exif:
        options["exif"] = exif_block.PREFIX + metadata.exif
    return options


def _of_jpeg(image: JpegImagePlugin.JpegImageFile) -> PhotoMetadata:
    packet = image.info.get("xmp") or None
    digest = xmp.extended_digest(packet) if packet else None
    return PhotoMetadata(
        exif=jpeg_segments.exif_of(image.applist),
        icc=image.info.get("icc_profile") or None,
        xmp=packet,
        iptc=jpeg_segments.iptc_of(jpeg_segments.photoshop_resources(image.applist)),
        xmp_extended=jpeg_segments.extended_xmp(image.applist, digest) if digest else None,
    )


def _of_tiff(image: Image.Image, data: bytes) -> PhotoMetadata:
    resources = tiff.block_of(data, tiff.PHOTOSHOP)
    return PhotoMetadata(
        exif=tiff.exif_of(data),
        icc=image.info.get("icc_profile") or None,
        xmp=tiff.block_of(data, tiff.XMP),
        iptc=tiff.block_of(data, tiff.IPTC) or (jpeg_segments.iptc_of(resources) if resources else None),
    )


def _of_other(image: Image.Image, data: bytes) -> PhotoMetadata:
    info = _raw_info(image, data)
    exif, packet = info.get("exif"), info.get("xmp")
    return PhotoMetadata(
        exif=bytes(exif).removeprefix(exif_block.PREFIX) or None if exif else None,
        icc=info.get("icc_profile") or None,
        xmp=bytes(packet) if packet else None,
    )


def _raw_info(image: Image.Image, data: bytes) -> dict[Any, Any]:
    """Pillow's `info`, but with EXIF and XMP as the file holds them."""
    if image.format == "WEBP":
        return image.info | _webp_blocks(data)
    if image.format not in ("HEIF", "AVIF"):
        return image.info
    # Pillow's plugins set the orientation in some.
    try:
        raw = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False).info
    except MemoryError:
        raise
    except Exception:  # of an AVIF, which libavif opened: libheif knows less of them
        return image.info
    return image.info | {name: raw[name] for name in ("exif", "xmp") if raw.get(name)}


def _webp_blocks(data: bytes) -> dict[str, bytes]:
    """EXIF and XMP of a WebP; libwebp skips those that the file's header does not announce (RFC 9649, section 2.7)."""
    found: dict[str, bytes] = {}
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if name := {b"EXIF": "exif", b"XMP ": "xmp", b"XMP\0": "xmp"}.get(kind):
            found.setdefault(name, data[at + 8 : at + 8 + size])
        at += 8 + size + (size & 1)
    return found
