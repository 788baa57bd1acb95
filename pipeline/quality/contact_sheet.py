"""Original and restored side by side, or several codecs' ways of restoring, for the eye.

    caption
    ┌──────────┐ ┌──────────┐ ┌────────┐ ┌────────┐
    │ original │ │ restored │ │ 1:1    │ │ 1:1    │   one strip a photo, strips on top of each other
    └──────────┘ └──────────┘ └────────┘ └────────┘

A thumbnail hides what a codec does to detail, so the busiest part of each photo stands beside it, pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.codecs.base import Pixels

CROP_SIDE = 300
"""Pixels, of the square shown pixel for pixel."""
_THUMBNAIL_SIZE = (420, CROP_SIDE)
_CAPTION_HEIGHT = 30
_GAP = 12
_BACKGROUND = (24, 24, 24)
_INK = (235, 235, 235)
_LEGEND = "original, restored, then the busiest part of each, pixel for pixel"


def strip(original: Pixels, restored: Pixels, *, caption: str) -> Image.Image:
    """One photo's strip: both thumbnails, then both crops.

    Args:
        original: H x W x 3, uint8, RGB.
        restored: of the same shape.
    """
    top, left = busiest_square(original, CROP_SIDE)
    window = slice(top, top + CROP_SIDE), slice(left, left + CROP_SIDE)
    tiles = [_thumbnail(original), _thumbnail(restored)]
    tiles += [Image.fromarray(np.ascontiguousarray(photo[window])) for photo in (original, restored)]
    widths = [_THUMBNAIL_SIZE[0]] * 2 + [CROP_SIDE] * 2
    canvas = Image.new("RGB", (sum(widths) + _GAP * 5, _CAPTION_HEIGHT + CROP_SIDE + _GAP), _BACKGROUND)
    ImageDraw.Draw(canvas).text((_GAP, 4), caption, fill=_INK, font=ImageFont.load_default(size=18))
    x = _GAP
    for tile, width in zip(tiles, widths, strict=True):
        canvas.paste(tile, (x + (width - tile.width) // 2, _CAPTION_HEIGHT + (CROP_SIDE - tile.height) // 2))
        x += width + _GAP
    return canvas


def crops_strip(tiles: Sequence[tuple[str, Pixels]], *, caption: str) -> Image.Image:
    """The same part of a photo as several made it, side by side, pixel for pixel.

    Args:
        tiles: label and part of each, at most `CROP_SIDE` a side, uint8, RGB.
    """
    height = 2 * _CAPTION_HEIGHT + CROP_SIDE + _GAP
    canvas = Image.new("RGB", ((CROP_SIDE + _GAP) * len(tiles) + _GAP, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 4), caption, fill=_INK, font=ImageFont.load_default(size=18))
    for i, (label, part) in enumerate(tiles):
        x = _GAP + i * (CROP_SIDE + _GAP)
        draw.text((x, _CAPTION_HEIGHT + 4), label, fill=_INK, font=ImageFont.load_default(size=15))
        canvas.paste(Image.fromarray(np.ascontiguousarray(part)), (x, 2 * _CAPTION_HEIGHT))
    return canvas


def contact_sheet(strips: Sequence[Image.Image], *, title: str, legend: str = _LEGEND) -> Image.Image:
    """The strips on top of each other, under a title and a line that says what stands in them.

    Raises:
        ValueError: there are no strips.
    """
    if not strips:
        raise ValueError("a contact sheet needs at least one photo")
    sheet = Image.new("RGB", (strips[0].width, 56 + sum(s.height for s in strips)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 6), title, fill=_INK, font=ImageFont.load_default(size=20))
    draw.text((_GAP, 32), legend, fill=(160, 160, 160), font=ImageFont.load_default(size=15))
    y = 56
    for photo in strips:
        sheet.paste(photo, (0, y))
        y += photo.height
    return sheet


def busiest_square(photo: Pixels, side: int) -> tuple[int, int]:
    """Top and left of the square, on a grid of such squares, whose luma differs most between neighbours."""
    luma = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.int16)
    tops, lefts = (range(0, max(length - side, 0) + 1, side) for length in luma.shape)
    squares = [(top, left) for top in tops for left in lefts]

    def busyness(corner: tuple[int, int]) -> float:
        square = luma[corner[0] : corner[0] + side, corner[1] : corner[1] + side]
        return sum(float(np.abs(np.diff(square, axis=axis)).sum()) for axis in (0, 1))

    return max(squares, key=busyness)


def _thumbnail(photo: Pixels) -> Image.Image:
    image = Image.fromarray(photo)
    image.thumbnail(_THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return image
