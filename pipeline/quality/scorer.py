"""One decoded photo -> its score in every metric that there are weights for."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from pipeline.codecs.base import Pixels
from pipeline.errors import SettingError
from pipeline.quality.fid import Inception, Sets
from pipeline.quality.learned import DISTS, LPIPS
from pipeline.quality.metrics import measure
from pipeline.quality.perceptual import PerceptualDistance
from pipeline.quality.rate_distortion import METRICS, Metric
from pipeline.quality.ssimulacra2 import MIN_SIDE, ssimulacra2

Scores = dict[str, float | None]
"""`Metric.key` -> score; None where the metric says nothing of a photo: too small, or infinite, for equal photos."""


class Scorer:
    """PSNR, MS-SSIM, SSIMULACRA 2 and the perceptual distance; LPIPS and DISTS where their weights are given."""

    def __init__(
        self,
        *,
        lpips_weights: Path | None = None,
        dists_weights: Path | None = None,
        fid_weights: Path | None = None,
        device: str = "cpu",
        only: Collection[str] | None = None,
    ) -> None:
        """Load the networks.

        Args:
            lpips_weights: see `LPIPS.load`.
            dists_weights: see `DISTS.load`.
            fid_weights: see `Inception`.
            only: keys of metrics; the others are neither loaded nor computed, but for PSNR and MS-SSIM. None: all.

        Raises:
            CheckpointError: a file does not hold the weights that it should.
            SettingError: `only` names a metric whose weights are not given.
        """
        wanted = {metric.key for metric in METRICS} if only is None else set(only)
        self._networks: dict[str, PerceptualDistance | LPIPS | DISTS] = {}
        if "perceptual" in wanted:
            self._networks["perceptual"] = PerceptualDistance()
        if "lpips" in wanted and lpips_weights is not None:
            self._networks["lpips"] = LPIPS.load(lpips_weights)
        if "dists" in wanted and dists_weights is not None:
            self._networks["dists"] = DISTS.load(dists_weights)
        for network in self._networks.values():
            network.to(device)
        computed = {"psnr", "ms_ssim", *self._networks} | ({"ssimulacra2"} & wanted)
        if only is not None and (lacking := wanted - computed):
            name = min(lacking)
            raise SettingError(f"{name} needs weights: name their file with --{name}-weights")
        self._inception = None if fid_weights is None else Inception(fid_weights, device=device)
        self.metrics: tuple[Metric, ...] = tuple(metric for metric in METRICS if metric.key in computed)
        """Those that `score` gives, in their order."""

    def sets(self) -> Sets | None:
        """For FID, which no photo has by itself; None without its weights."""
        return None if self._inception is None else Sets(self._inception)

    def score(self, original: Pixels, decoded: Pixels) -> Scores:
        """All scores of `decoded`.

        Args:
            original: H x W x 3, uint8, RGB.
            decoded: of the same shape.

        Raises:
            ValueError: the shapes differ, or are not H x W x 3.
        """
        scores = self.measure(original, decoded)
        return {key: score if score is None or math.isfinite(score) else None for key, score in scores.items()}

    def measure(self, original: Pixels, decoded: Pixels) -> Scores:
        """As `score`, but with the infinite PSNR of equal photos."""
        quality = measure(original, decoded)
        scores: Scores = {"psnr": quality.psnr, "ms_ssim": quality.ms_ssim}
        if any(metric.key == "ssimulacra2" for metric in self.metrics):
            scores["ssimulacra2"] = ssimulacra2(original, decoded) if min(original.shape[:2]) >= MIN_SIDE else None
        return scores | {key: network.between(original, decoded) for key, network in self._networks.items()}
