"""Which container a file is, by its first bytes: for all that reads files without a decoder."""

from __future__ import annotations

from pipeline.pixels.formats import jpeg_walk, png_walk, tiff, webp_walk


def container_of(data: bytes) -> str | None:
    """JPEG, PNG, WEBP, TIFF, or BMFF for HEIF and AVIF; None of all others."""
    if data.startswith(jpeg_walk.SIGNATURE):
        return "JPEG"
    if data.startswith(png_walk.SIGNATURE):
        return "PNG"
    if webp_walk.is_webp(data):
        return "WEBP"
    if tiff.byte_order(data) is not None:
        return "TIFF"
    return "BMFF" if data[4:8] == b"ftyp" else None
