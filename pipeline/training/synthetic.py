"""Pictures that no camera takes: flat colours, ramps, patterns, text. A codec trained on photos alone tints and blurs them."""

from __future__ import annotations

from string import ascii_letters, digits

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_CHARACTERS = np.array(list(ascii_letters + digits + "   .,;:-()"))
_GREYS = (0, 255, 128)
"""Black and white frames are the commonest flat pictures."""


def synthetic_crop(size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A flat colour, a ramp between two, a pattern of squares or stripes, or lines of text: size x size x 3."""
    first, second = _colour(rng), _colour(rng)
    match rng.integers(4):
        case 0:
            return np.broadcast_to(first, (size, size, 3)).astype(np.uint8)
        case 1:
            angle = rng.uniform(0, 2 * np.pi)
            x, y = np.meshgrid(np.linspace(-0.5, 0.5, size), np.linspace(-0.5, 0.5, size))
            share = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[:, :, None]
            return np.round(first * (1 - share) + second * share).astype(np.uint8)
        case 2:
            rows, columns = np.indices((size, size)) + rng.integers(0, 96, (2, 1, 1))
            height, width = rng.integers(4, 97, 2)
            stripes = rng.random() < 0.5
            cells = rows // height + (0 if stripes else columns // width)
            return np.where((cells % 2)[:, :, None] == 0, first, second).astype(np.uint8)
        case _:
            return _text(size, first, second, rng)


def _text(size: int, ink: NDArray[np.int64], paper: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    height = int(rng.integers(10, 33))
    image = Image.new("RGB", (size, size), tuple(int(c) for c in paper))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(height)
    for top in range(int(rng.integers(0, height)), size, height + int(rng.integers(2, 9))):
        line = "".join(rng.choice(_CHARACTERS, size // 4))
        draw.text((int(rng.integers(-8, 9)), top), line, fill=tuple(int(c) for c in ink), font=font)
    return np.asarray(image)


def _colour(rng: np.random.Generator) -> NDArray[np.int64]:
    if rng.random() < 0.4:
        return np.full(3, rng.choice(_GREYS))
    return rng.integers(0, 256, 3)
