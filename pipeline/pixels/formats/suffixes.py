"""Suffixes of files and Pillow's names of their formats."""

from __future__ import annotations

from pathlib import PurePath

FORMATS = {
    "avif": "AVIF", "bmp": "BMP", "gif": "GIF", "heic": "HEIF", "heif": "HEIF", "hif": "HEIF", "jfif": "JPEG", "jpe": "JPEG",
    "jpeg": "JPEG", "jpg": "JPEG", "jxl": "JXL", "png": "PNG", "tif": "TIFF", "tiff": "TIFF", "webp": "WEBP",
}  # fmt: skip
"""Suffix of a file -> Pillow's name of its format."""
SUFFIXES = {"AVIF": "avif", "HEIF": "heic", "JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp"}
"""Of the formats that can be written."""


def named_for(name: str, format: str | None) -> str:
    """Return the name of a file in `format`: `name`, with that format's suffix where its own tells of another."""
    path = PurePath(name)
    if format in SUFFIXES and FORMATS.get(path.suffix.lower().removeprefix(".")) != format:
        return path.with_suffix(f".{SUFFIXES[format]}").name
    return name
