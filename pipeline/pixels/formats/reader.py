"""Image file -> pixels, as displayed. In this process: `sandbox` has the same for files that nobody vouches for."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from PIL import Image

from pipeline.errors import UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.formats.probe import open_image, probe
from pipeline.pixels.metadata.orientation import turned_upright
from pipeline.records import PhotoHeader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read_pixels(data: bytes, header: PhotoHeader | None = None) -> NDArray[np.uint8]:
    """Decode to H x W x 3, RGB, 0..255, orientation applied; grey is repeated over the channels, ICC is not applied.

    Args:
        header: what `probe` said of `data`, where it was asked already.

    Raises:
        UnreadablePhotoError: no image, or cut short.
        UnsupportedPhotoError: sound, but not representable as 8-bit RGB.
    """
    import numpy as np  # here: the process that decodes for others does without

    header = header or probe(data)
    if header.unsupported:
        raise UnsupportedPhotoError(header.unsupported)
    return np.asarray(open_upright(data, header.orientation))


def open_upright(data: bytes, orientation: int) -> Image.Image:
    """Decode to an RGB image, orientation applied.

    Raises:
        UnreadablePhotoError: no image, or cut short.
    """
    with open_image(data) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise UnreadablePhotoError(f"the image is truncated or damaged: {error}") from error
        upright = turned_upright(image, orientation)
        return upright if upright.mode == "RGB" else upright.convert("RGB")
