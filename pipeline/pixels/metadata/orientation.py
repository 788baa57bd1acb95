"""Which way up a photo is stored: the one place that decides it, and that turns pixels.

    container                who says
    JPEG, PNG, WebP, TIFF    the orientation in EXIF, of any integer type; XMP does not count, as for browsers and libvips
    HEIC, AVIF               the container (irot, imir); neither EXIF nor XMP counts (MIAF, 7.3.10.1)

libheif turns what it decodes; libavif says how to turn it. Pillow's own rules (`exif_transpose`) are other ones.
"""

from __future__ import annotations

from PIL import Image

from pipeline.pixels.metadata import exif

TURNED_BY_EXIF = frozenset({"JPEG", "PNG", "WEBP", "TIFF"})
"""Formats that viewers turn by the orientation in EXIF: a restored file is turned as its source was."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = _UPRIGHT | {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def orientation_of(image: Image.Image, block: bytes | None) -> int:
    """How the pixels of an opened file are stored, 1 to 8 as in EXIF.

    Args:
        image: opened from the file without metadata (`bare`): only then Pillow's EXIF says no more than the container.
        block: the file's EXIF.
    """
    if image.format in TURNED_BY_EXIF:
        return exif.orientation(block or b"")
    if image.format == "AVIF":
        return exif.orientation(image.info.get("exif", b"").removeprefix(exif.PREFIX))
    return 1


def size_upright(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Width and height as displayed."""
    return image.size if orientation < 5 else image.size[::-1]


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Stored pixels as displayed."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def turned_back(image: Image.Image, orientation: int) -> Image.Image:
    """Displayed pixels as stored."""
    return image.transpose(_BACK[orientation]) if orientation in _BACK else image
