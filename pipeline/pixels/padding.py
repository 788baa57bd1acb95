"""Pad to a multiple and crop back: a pair, so that what one adds the other takes away."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def padded_size(width: int, height: int, multiple: int) -> tuple[int, int]:
    """(width, height) rounded up to `multiple`."""
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


def pad(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Repeat the last row and column: H x W x 3 -> padded."""
    return np.pad(pixels, _margins(pixels, multiple), mode="edge")


def mirror(pixels: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Reflect at the last row and column, which are not repeated: H x W x 3 -> padded.

    A side smaller than its padding is reflected again and again; a side of one pixel is repeated.
    """
    return np.pad(pixels, _margins(pixels, multiple), mode="reflect")


def crop(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Top left part, contiguous."""
    return np.ascontiguousarray(pixels[:height, :width])


def _margins(pixels: NDArray[np.uint8], multiple: int) -> list[tuple[int, int]]:
    height, width = pixels.shape[:2]
    padded_width, padded_height = padded_size(width, height, multiple)
    return [(0, padded_height - height), (0, padded_width - width), (0, 0)]
