"""Image file -> pixels, as displayed."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.errors import UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.probe import open_image, probe
from pipeline.records import PhotoHeader


def read_pixels(data: bytes, header: PhotoHeader | None = None) -> NDArray[np.uint8]:
    """Decode to H x W x 3, RGB, 0..255, orientation applied; grey is repeated over the channels, ICC is not applied.

    Args:
        header: what `probe` said of `data`, where it was asked already.

    Raises:
        UnreadablePhotoError: no image, or cut short.
        UnsupportedPhotoError: sound, but not representable as 8-bit RGB.
    """
    header = header or probe(data)
    if header.unsupported:
        raise UnsupportedPhotoError(header.unsupported)
    with open_image(data) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.load()
        except Exception as error:
            raise UnreadablePhotoError(f"the image is truncated or damaged: {error}") from error
        upright = ImageOps.exif_transpose(image) if header.orientation != 1 else image
        return np.asarray(_to_rgb(upright))


def _to_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
