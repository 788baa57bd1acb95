"""One decoded photo -> its score in every metric that there are weights for."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.codecs.base import Pixels
from pipeline.quality.learned import DISTS, LPIPS
from pipeline.quality.metrics import measure
from pipeline.quality.perceptual import PerceptualDistance
from pipeline.quality.rate_distortion import METRICS, Metric
from pipeline.quality.ssimulacra2 import MIN_SIDE, ssimulacra2

Scores = dict[str, float | None]
"""`Metric.key` -> score; None where the metric says nothing of a photo: too small, or infinite, for equal photos."""


class Scorer:
    """PSNR, MS-SSIM, SSIMULACRA 2 and the perceptual distance; LPIPS and DISTS where their weights are given."""

    def __init__(self, *, lpips_weights: Path | None = None, dists_weights: Path | None = None, device: str = "cpu") -> None:
        """Load the networks.

        Args:
            lpips_weights: see `LPIPS.load`.
            dists_weights: see `DISTS.load`.

        Raises:
            CheckpointError: a file does not hold the weights that it should.
        """
        self._networks: dict[str, PerceptualDistance | LPIPS | DISTS] = {"perceptual": PerceptualDistance()}
        if lpips_weights is not None:
            self._networks["lpips"] = LPIPS.load(lpips_weights)
        if dists_weights is not None:
            self._networks["dists"] = DISTS.load(dists_weights)
        for network in self._networks.values():
            network.to(device)
        computed = {"psnr", "ms_ssim", "ssimulacra2", *self._networks}
        self.metrics: tuple[Metric, ...] = tuple(metric for metric in METRICS if metric.key in computed)
        """Those that `score` gives, in their order."""

    def score(self, original: Pixels, decoded: Pixels) -> Scores:
        """All scores of `decoded`.

        Args:
            original: H x W x 3, uint8, RGB.
            decoded: of the same shape.

        Raises:
            ValueError: the shapes differ, or are not H x W x 3.
        """
        quality = measure(original, decoded)
        return {
            "psnr": quality.psnr if math.isfinite(quality.psnr) else None,
            "ms_ssim": quality.ms_ssim,
            "ssimulacra2": ssimulacra2(original, decoded) if min(original.shape[:2]) >= MIN_SIDE else None,
            **{key: network.between(original, decoded) for key, network in self._networks.items()},
        }
