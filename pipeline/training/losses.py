"""What training minimises: rate, squared error on the [-1, 1] scale, and the distance of the decoded latent.

total = rate_weight * bits per pixel + mse(x, x_hat) + alignment_weight * |x0 - lat|^2 / |lat|^2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.codecs.ditic.model import Output


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Scalars of one batch."""

    total: Tensor
    bpp: Tensor
    mse: Tensor
    """On the [-1, 1] scale."""

    @property
    def psnr(self) -> float:
        """Decibels; the peak-to-peak range is 2, so its square is 4."""
        return float(10 * torch.log10(4 / self.mse.detach()))


def rate_distortion(x: Tensor, output: Output, *, rate_weight: float, alignment_weight: float) -> Loss:
    """Objective of a batch x, B x 3 x H x W in [-1, 1]; no gradient reaches the encoder through the alignment's target."""
    num_pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bits = -(output.coded.y_likelihoods.log2().sum() + output.coded.z_likelihoods.log2().sum())
    bpp = bits / num_pixels
    mse = (output.x_hat - x).square().mean()
    target = output.lat.detach()
    alignment = (output.x0 - target).square().sum() / target.square().sum().clamp(min=1e-6)
    return Loss(total=rate_weight * bpp + mse + alignment_weight * alignment, bpp=bpp, mse=mse)


def distortion(x: Tensor, x_hat: Tensor) -> Loss:
    """Squared error alone, for steps that code nothing."""
    mse = (x_hat - x).square().mean()
    return Loss(total=mse, bpp=torch.zeros(()), mse=mse)
