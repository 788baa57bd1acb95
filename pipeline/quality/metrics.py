"""How far a decoded photo is from its original.

PSNR counts squared differences; MS-SSIM compares structure at five scales. Neither sees whether detail is true or
invented: a generative codec can look sharp and score low, or the other way round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_msssim import ms_ssim

from pipeline.codecs.base import Pixels

MIN_MS_SSIM_SIDE = 161
"""Pixels: below it the fifth scale, a sixteenth of the photo, is smaller than MS-SSIM's window of 11 x 11."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Distance between two photos of one size."""

    psnr: float
    """Decibels over all pixels and channels, peak 255; infinite for equal photos."""
    ms_ssim: float | None
    """0 to 1, mean of the RGB channels; None for a photo with a side under `MIN_MS_SSIM_SIDE`: fewer scales would
    give a number that does not compare with other photos'."""


def measure(original: Pixels, decoded: Pixels) -> Quality:
    """PSNR and MS-SSIM between two photos, each H x W x 3, uint8, RGB.

    Raises:
        ValueError: the shapes differ, or are not H x W x 3.
    """
    if original.shape != decoded.shape or original.ndim != 3 or original.shape[2] != 3:
        raise ValueError(f"two photos of one shape H x W x 3 are needed, not {original.shape} and {decoded.shape}")
    return Quality(psnr=_psnr(original, decoded), ms_ssim=_ms_ssim(original, decoded))


def bits_per_pixel(num_bytes: int, *, width: int, height: int) -> float:
    """Rate of a stream of `num_bytes` bytes that stands for `width` x `height` pixels."""
    return 8 * num_bytes / (width * height)


def _psnr(original: Pixels, decoded: Pixels) -> float:
    mean_squared_error = float(np.square(original.astype(np.int32) - decoded).mean())
    return math.inf if mean_squared_error == 0 else 10 * math.log10(255**2 / mean_squared_error)


def _ms_ssim(original: Pixels, decoded: Pixels) -> float | None:
    if min(original.shape[:2]) < MIN_MS_SSIM_SIDE:
        return None
    return float(ms_ssim(_planes(original), _planes(decoded), data_range=255))


def _planes(photo: Pixels) -> torch.Tensor:  # 1 x 3 x H x W
    # Channels stay innermost, as in `photo`: blurring then takes a third of the time it takes plane by plane.
    return torch.from_numpy(photo.astype(np.float32)).permute(2, 0, 1)[None]
