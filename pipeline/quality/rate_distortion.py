"""Rate-distortion curves of codecs, and how much rate one needs for the quality of another (BD-rate).

BD-rate (Bjøntegaard, "Calculation of average PSNR differences between RD-curves", 2001) is the mean, over the qualities that
both curves reach, of the difference in log rate at equal quality. Between the points stands Akima's interpolation, which
follows codecs' curves better than a polynomial (Herglotz et al., "The Bjøntegaard Bible", 2023); the package `bjontegaard`
of the same authors computes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One way to score a decoded photo."""

    key: str
    """Name in results."""
    label: str
    digits: int
    """Behind the point, where it is shown."""
    is_distance: bool = False
    """Smaller is better."""
    axis: Callable[[float], float] = float
    """Score -> the scale on which curves are drawn and integrated."""
    axis_label: str = ""
    """Of that scale, where it is another."""


def decibels(similarity: float) -> float:
    """A similarity of at most 1 on the scale -10 log10(1 - s), on which 0.9 is 10 and 0.99 is 20; infinite for 1."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


METRICS = (
    Metric(key="psnr", label="PSNR", digits=2, axis_label="PSNR (dB)"),
    Metric(key="ms_ssim", label="MS-SSIM", digits=4, axis=decibels, axis_label="MS-SSIM (dB)"),
    Metric(key="ssimulacra2", label="SSIMULACRA2", digits=1),
    Metric(key="perceptual", label="perceptual", digits=4, is_distance=True, axis_label="perceptual distance"),
    Metric(key="lpips", label="LPIPS", digits=4, is_distance=True),
    Metric(key="dists", label="DISTS", digits=4, is_distance=True),
)
"""Every metric of one photo, in the order in which they are shown."""
FID = Metric(key="fid", label="FID/256", digits=2, is_distance=True)
"""Of a set of photos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BDRate:
    """How much more rate a codec needs than the anchor at equal quality."""

    percent: float | None
    """Below zero where it needs less; None where the curves do not allow to say."""
    reason: str | None = None
    """Why there is no number."""
    overlap: float | None = None
    """Share, of the qualities that either curve reaches, over which the mean is taken: a small one says little."""


def bd_rate(anchor: Sequence[tuple[float, float]], test: Sequence[tuple[float, float]], metric: Metric) -> BDRate:
    """BD-rate of `test` against `anchor`.

    Args:
        anchor: (bits per pixel, score) of each quality, in any order.
        test: likewise; the numbers of points may differ.
        metric: what the scores are of.
    """
    from bjontegaard import bd_rate as bjontegaard_delta

    curves = [sorted((rate, _rising(score, metric)) for rate, score in curve) for curve in (anchor, test)]
    for curve in curves:
        if len(curve) < 2:
            return BDRate(percent=None, reason="fewer than two qualities")
        if not all(math.isfinite(quality) for _, quality in curve):
            return BDRate(percent=None, reason="a lossless point has no finite quality")
        if any(after[1] <= before[1] or after[0] <= before[0] for before, after in itertools.pairwise(curve)):
            return BDRate(percent=None, reason="a curve does not rise with its rate")
    (low_1, high_1), (low_2, high_2) = ((curve[0][1], curve[-1][1]) for curve in curves)
    overlap = (min(high_1, high_2) - max(low_1, low_2)) / (max(high_1, high_2) - min(low_1, low_2))
    if overlap <= 0:
        return BDRate(percent=None, reason="no overlap", overlap=0.0)
    columns = [list(column) for curve in curves for column in zip(*curve, strict=True)]
    percent = bjontegaard_delta(*columns, method="akima", require_matching_points=False, min_overlap=0)
    return BDRate(percent=float(percent), overlap=overlap)


def _rising(score: float, metric: Metric) -> float:
    """The score on its axis, turned so that more is better."""
    return -metric.axis(score) if metric.is_distance else metric.axis(score)
