"""BD-rate against closed forms: where log rate is linear in quality, every interpolation gives the same."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from pipeline.quality.rate_distortion import METRICS, bd_rate, decibels

PSNR, MS_SSIM, _, PERCEPTUAL = METRICS[:4]


def line(qualities: list[float], *, factor: float = 1.0) -> list[tuple[float, float]]:
    """Rate doubles every 3 of quality."""
    return [(factor * 2 ** (quality / 3), quality) for quality in qualities]


def test_a_codec_that_takes_a_quarter_more_everywhere() -> None:
    rate = bd_rate(line([30, 32, 35, 38]), line([31, 33, 34, 36, 40], factor=1.25), PSNR)
    assert rate.percent == pytest.approx(25)
    assert rate.overlap == pytest.approx((38 - 31) / (40 - 30))
    assert rate.reason is None


def test_the_order_of_the_points_does_not_matter() -> None:
    rate = bd_rate(line([38, 30, 35, 32]), line([36, 31, 40, 33], factor=0.5), PSNR)
    assert rate.percent == pytest.approx(-50)


def test_ms_ssim_is_compared_in_decibels() -> None:
    def similar(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(rate, 1 - 10 ** (-quality / 10)) for rate, quality in curve]

    rate = bd_rate(similar(line([10, 12, 15, 18])), similar(line([11, 13, 19], factor=2)), MS_SSIM)
    assert rate.percent == pytest.approx(100)


def test_smaller_distances_are_better() -> None:
    anchor = [(2**bits, 0.5 - bits / 10) for bits in range(4)]
    worse = [(3 * 2**bits, 0.5 - bits / 10) for bits in range(4)]
    assert bd_rate(anchor, worse, PERCEPTUAL).percent == pytest.approx(200)
    assert bd_rate(worse, anchor, PERCEPTUAL).percent == pytest.approx(-200 / 3)


def test_the_area_between_real_curves() -> None:
    # x265 with two presets, the example of the package's documentation, against straight lines between the points.
    slow = list(zip([9487.76, 4593.60, 2486.44, 1358.24], [40.037, 38.615, 36.845, 34.851], strict=True))
    fast = list(zip([9787.80, 4469.00, 2451.52, 1356.24], [40.121, 38.651, 36.970, 34.987], strict=True))
    found = bd_rate(slow, fast, PSNR).percent
    assert found == pytest.approx(_trapezoid(slow, fast), abs=0.3)


def _trapezoid(anchor: list[tuple[float, float]], test: list[tuple[float, float]]) -> float:
    """BD-rate with straight lines between the points."""

    def log_rate(curve: list[tuple[float, float]], quality: float) -> float:
        points = sorted((q, math.log(r)) for r, q in curve)
        (q0, r0), (q1, r1) = next((a, b) for a, b in pairwise(points) if a[0] <= quality <= b[0])
        return r0 + (r1 - r0) * (quality - q0) / (q1 - q0)

    low = max(min(quality for _, quality in curve) for curve in (anchor, test))
    high = min(max(quality for _, quality in curve) for curve in (anchor, test))
    steps = [low + (high - low) * (i + 0.5) / 1000 for i in range(1000)]
    return 100 * (math.exp(sum(log_rate(test, q) - log_rate(anchor, q) for q in steps) / 1000) - 1)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (line([40, 42]), "no overlap"),
        (line([35, 40]), "no overlap"),
        (line([31]), "two qualities"),
        ([], "two qualities"),
        ([(1, 30.0), (2, 33.0), (3, 32.0)], "does not rise"),
        ([(1, 30.0), (1, 33.0)], "does not rise"),
        ([(1, 30.0), (2, math.inf)], "lossless"),
    ],
)
def test_curves_that_do_not_compare_get_a_reason_and_no_number(test: list[tuple[float, float]], reason: str) -> None:
    rate = bd_rate(line([30, 32, 35]), test, PSNR)
    assert rate.percent is None
    assert rate.reason is not None
    assert reason in rate.reason


def test_decibels() -> None:
    assert decibels(0.9) == pytest.approx(10)
    assert decibels(0.99) == pytest.approx(20)
    assert decibels(1.0) == math.inf
