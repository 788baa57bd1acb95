"""Terms that compare a photo with what came back of it, photo by photo; each is there only if its weight is not 0.

    distortion = sum over terms of weight * term(x, x_hat)

    mse          mean squared error on [-1, 1]
    ms_ssim      1 - MS-SSIM (Wang et al., 2003)
    perceptual   `PerceptualDistance`: features of EfficientNet-Lite0, which a package carries
    lpips, dists `LPIPS` and `DISTS`, from files of weights that the user has

Shapes: B photos, 3 channels, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

from pytorch_msssim import ms_ssim
from torch import Tensor, nn

from pipeline.errors import SettingError
from pipeline.quality.learned import DISTS, LPIPS
from pipeline.quality.perceptual import PerceptualDistance
from pipeline.training.config import LossWeights


class Distortion(nn.Module):
    """The terms whose weight is not 0, by name; their networks are loaded with them, and frozen."""

    def __init__(self, weights: LossWeights, *, lpips_file: Path | None = None, dists_file: Path | None = None) -> None:
        """Load what the terms need.

        Args:
            lpips_file: as `LPIPS.load` takes it.
            dists_file: as `DISTS.load` takes it.

        Raises:
            SettingError: LPIPS or DISTS has a weight and no file.
            CheckpointError: a file holds something else.
        """
        super().__init__()
        terms: dict[str, nn.Module] = {}
        if weights.mse:
            terms["mse"] = _SquaredError()
        if weights.ms_ssim:
            terms["ms_ssim"] = _Dissimilarity()
        if weights.perceptual:
            terms["perceptual"] = _OfUnitRange(PerceptualDistance())
        if weights.lpips:
            terms["lpips"] = _OfUnitRange(LPIPS.load(_given(lpips_file, "LPIPS")))
        if weights.dists:
            terms["dists"] = _OfUnitRange(DISTS.load(_given(dists_file, "DISTS")))
        self.terms = nn.ModuleDict(terms)

    def forward(self, x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        """Each term without its weight, of shape B; x and x_hat are B x 3 x H x W, about [-1, 1]."""
        return {name: term(x, x_hat) for name, term in self.terms.items()}


class _SquaredError(nn.Module):
    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return (x_hat - x).square().flatten(1).mean(1)


class _Dissimilarity(nn.Module):
    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return 1 - ms_ssim(x_hat.clamp(-1, 1) + 1, x + 1, data_range=2, size_average=False)


class _OfUnitRange(nn.Module):
    """A distance that takes photos in 0..1, of photos in -1..1."""

    def __init__(self, distance: nn.Module) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return self.distance((x + 1) / 2, (x_hat.clamp(-1, 1) + 1) / 2)


def _given(path: Path | None, name: str) -> Path:
    if path is None:
        raise SettingError(
            f"{name} as a loss needs its weights: give their file, as pipeline/quality/learned.py says how to save"
        )
    return path
