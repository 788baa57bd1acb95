"""Quality against values known from elsewhere: closed forms, and torch-free arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.codecs.base import Pixels
from pipeline.quality.metrics import MIN_MS_SSIM_SIDE, bits_per_pixel, measure


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> Pixels:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 80 * np.sin(x / (7 + c)) * np.cos(y / (11 - c)) for c in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def test_equal_photos_are_at_no_distance() -> None:
    quality = measure(noise(200, 180), noise(200, 180))
    assert quality.psnr == math.inf
    assert quality.ms_ssim == pytest.approx(1)


@pytest.mark.parametrize("difference", [1, 10, 255])
def test_psnr_of_a_constant_difference(difference: int) -> None:
    dark = np.zeros((8, 5, 3), np.uint8)
    assert measure(dark, dark + np.uint8(difference)).psnr == pytest.approx(20 * math.log10(255 / difference))


def test_psnr_counts_every_channel_and_pixel() -> None:
    original = np.zeros((4, 4, 3), np.uint8)
    decoded = original.copy()
    decoded[1, 2, 0] = 12  # one of 48 values: mean squared error 144 / 48 = 3
    assert measure(original, decoded).psnr == pytest.approx(10 * math.log10(255**2 / 3))


def test_ms_ssim_of_a_constant_shift_of_flat_photos() -> None:
    # Without structure all contrast terms are one, and the luminance term alone is left, at the last scale's exponent.
    low, high = 100, 140
    c1 = (0.01 * 255) ** 2
    luminance = (2 * low * high + c1) / (low**2 + high**2 + c1)
    quality = measure(np.full((176, 176, 3), low, np.uint8), np.full((176, 176, 3), high, np.uint8))
    assert quality.ms_ssim == pytest.approx(luminance**0.1333, abs=1e-4)


def test_ms_ssim_falls_with_noise() -> None:
    original = smooth(192, 256)
    grain = np.random.default_rng(1).normal(size=original.shape)
    scores = [measure(original, _noisy(original, s * grain)).ms_ssim for s in (2, 10, 40)]
    assert all(score is not None for score in scores)
    assert 1 > scores[0] > scores[1] > scores[2] > 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("height", "width", "measured"),
    [(MIN_MS_SSIM_SIDE, MIN_MS_SSIM_SIDE, True), (MIN_MS_SSIM_SIDE - 1, 400, False), (400, 1, False), (1, 1, False)],
)
def test_ms_ssim_needs_room_for_five_scales(height: int, width: int, measured: bool) -> None:
    quality = measure(noise(height, width), noise(height, width, seed=1))
    assert (quality.ms_ssim is not None) == measured
    assert 5 < quality.psnr < 11 or height * width == 1  # independent uniform noise: 7.7 dB


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="one shape"):
        measure(noise(8, 8), noise(8, 9))


def test_bits_per_pixel() -> None:
    assert bits_per_pixel(1000, width=100, height=40) == 2.0


def _noisy(photo: Pixels, noise: np.ndarray) -> Pixels:
    return np.clip(photo + noise, 0, 255).astype(np.uint8)
