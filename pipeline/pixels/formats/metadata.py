"""EXIF, ICC, XMP, IPTC and print resolution: taken out of a file verbatim, and put into the restored one.

    container      EXIF   ICC   XMP   IPTC                                 resolution
    JPEG           x      x     x     Photoshop's resources, APP13         JFIF
    PNG            x      x     x     a text profile, as ImageMagick's     pHYs
    WebP           x      x     x
    TIFF           x      x     x     tag 33723, or 34377 (Photoshop's)    EXIF
    HEIF, AVIF     x      x     x

Blocks are found without a decoder, which would read some of them in its own way, or refuse a photo for them. Writing EXIF anew
would lose maker notes, whose offsets count from its start: blocks are changed in place. A TIFF is one EXIF directory, layout
and all; of it goes along what describes the photo. IPTC goes into no other container.

`orientation` says which way is up, `beside` what a file holds that is not here, and `dropped` what of that is lost.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from PIL import PngImagePlugin

from pipeline.errors import UnsupportedPhotoError
from pipeline.pixels.formats import heif_items, jpeg_segments, jpeg_walk, png_chunks, tiff, webp_walk
from pipeline.pixels.formats.containers import container_of
from pipeline.pixels.metadata import exif as exif_block
from pipeline.pixels.metadata import resolution, xmp
from pipeline.records import PhotoMetadata


def read_metadata(data: bytes) -> PhotoMetadata:
    """Metadata blocks of a file, found without a decoder; but for the ICC profile of HEIF and AVIF, which decoders find.

    A block that is damaged so that it cannot be taken out is None: `beside` then finds what is left of it in the file.
    """
    read = _READERS.get(container_of(data) or "")
    try:
        return read(data) if read else PhotoMetadata()
    except (ValueError, IndexError, struct.error):
        return PhotoMetadata()


def upright(metadata: PhotoMetadata) -> PhotoMetadata:
    """The same for pixels that are stored as displayed: orientation 1 in EXIF and XMP."""
    packet = xmp.upright(metadata.xmp) if metadata.xmp else None
    extended = xmp.upright(metadata.xmp_extended) if metadata.xmp_extended else None
    if packet and extended and extended != metadata.xmp_extended:
        packet = xmp.referring_to(packet, extended)
    exif = exif_block.upright(metadata.exif) if metadata.exif else None
    return replace(metadata, exif=exif, xmp=packet, xmp_extended=extended)


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


def _of_jpeg(data: bytes) -> PhotoMetadata:
    segments = [(segment.name, segment.payload) for segment in jpeg_walk.walk(data, is_whole=False).segments]
    jfif = next((data for name, data in segments if name == "APP0" and data.startswith(b"JFIF\0")), None)
    packet = jpeg_segments.xmp_of(segments)
    digest = xmp.extended_digest(packet) if packet else None
    return PhotoMetadata(
        exif=jpeg_segments.exif_of(segments),
        icc=jpeg_segments.icc_of(segments),
        xmp=packet,
        iptc=jpeg_segments.iptc_of(jpeg_segments.photoshop_resources(segments)),
        xmp_extended=jpeg_segments.extended_xmp(segments, digest) if digest else None,
        resolution=_text(resolution.of_jfif(jfif)) if jfif else None,
    )


def _of_webp(data: bytes) -> PhotoMetadata:
    """Of chunks that the file's header does not announce, too, which libwebp skips (RFC 9649, section 2.7)."""
    found: dict[bytes, bytes] = {}
    for kind, payload in webp_walk.walk(data)[0]:
        found.setdefault(b"XMP " if kind == b"XMP\0" else kind, payload)
    exif = found.get(b"EXIF", b"").removeprefix(exif_block.PREFIX)
    return PhotoMetadata(exif=exif or None, icc=found.get(b"ICCP") or None, xmp=found.get(b"XMP ") or None)


def _of_tiff(data: bytes) -> PhotoMetadata:
    resources = tiff.block_of(data, tiff.PHOTOSHOP)
    return PhotoMetadata(
        exif=tiff.exif_of(data),
        icc=tiff.block_of(data, tiff.ICC) or None,
        xmp=tiff.block_of(data, tiff.XMP) or None,
        iptc=tiff.block_of(data, tiff.IPTC) or (jpeg_segments.iptc_of(resources) if resources else None),
        resolution=_text(tiff.resolution_of(data)),
    )


def _of_heif(data: bytes) -> PhotoMetadata:
    exif, packet = heif_items.metadata_of(data)
    return PhotoMetadata(exif=exif, xmp=packet)


def _text(found: resolution.Resolution | None) -> str | None:
    return None if found is None else str(found)


_READERS = {"JPEG": _of_jpeg, "PNG": png_chunks.metadata_of, "WEBP": _of_webp, "TIFF": _of_tiff, "BMFF": _of_heif}
