"""Pixels -> image file, with its metadata put back."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pillow_heif
import pillow_jxl  # noqa: F401 (registers itself with Pillow)
from PIL import Image

from pipeline.errors import UnsupportedPhotoError
from pipeline.pixels.metadata import save_options
from pipeline.records import PhotoMetadata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

pillow_heif.register_heif_opener()

# High quality throughout: the restored file should lose nothing that the codec kept.
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "PNG": {},
    "WEBP": {"quality": 95, "method": 4},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 90, "chroma": 444},
    "BMP": {},
    "JXL": {"quality": 95},
}
WRITABLE_FORMATS = frozenset(_OPTIONS)
"""Pillow's names of the containers that `write_photo` can make."""


def write_photo(pixels: NDArray[np.uint8], *, format: str, mode: str, metadata: PhotoMetadata) -> bytes:
    """Encode H x W x 3 RGB pixels as a file.

    Args:
        format: Pillow's name of the container.
        mode: the source's; `L` gives a grey file.

    Raises:
        UnsupportedPhotoError: nothing here writes this format, or it cannot hold the photo's size or metadata.
    """
    if format not in _OPTIONS:
        raise UnsupportedPhotoError(f"files of format {format} cannot be written; restore with --format PNG")
    image = Image.fromarray(pixels)
    if mode == "L":
        image = image.convert("L")
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=format, **_OPTIONS[format], **save_options(format, metadata))
    except Exception as error:  # Pillow's, about metadata that is too long or makes no sense, are of any kind
        raise UnsupportedPhotoError(f"the photo and its metadata do not go into a {format} file: {error}") from error
    return buffer.getvalue()
