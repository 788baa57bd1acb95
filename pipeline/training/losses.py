"""What training minimises, photo by photo: rate, distortion, and the distance of the decoded latent.

    distortion = mse(x, x_hat) + ms_ssim_weight * (1 - MS-SSIM(x, x_hat))
    total = mean of (rate_weight_q * bits per pixel + distortion) * sqrt(least rate_weight / rate_weight_q)
            + alignment_weight * |x0 - lat|^2 / |lat|^2

Each photo of a batch has a quality q of its own. The square root lies between counting squared errors alike, where the lowest
rate would drown the others, and counting bits alike, where the highest would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pytorch_msssim import ms_ssim
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


def rate_distortion(x: Tensor, output: Output, *, rate_weights: Tensor, alignment_weight: float, ms_ssim_weight: float) -> Loss:
    """Objective of a batch x, B x 3 x H x W in [-1, 1]; no gradient reaches the encoder through the alignment's target.

    Args:
        rate_weights: B, of each photo's quality.
    """
    num_pixels = x.shape[2] * x.shape[3]
    bits = -(output.coded.y_likelihoods.log2().flatten(1).sum(1) + output.coded.z_likelihoods.log2().flatten(1).sum(1))
    bpp = bits / num_pixels
    mse = (output.x_hat - x).square().flatten(1).mean(1)
    loss = rate_weights * bpp + mse
    if ms_ssim_weight:
        similarity = ms_ssim(output.x_hat.clamp(-1, 1) + 1, x + 1, data_range=2, size_average=False)
        loss = loss + ms_ssim_weight * (1 - similarity)
    total = (loss * (rate_weights.min() / rate_weights).sqrt()).mean()
    target = output.lat.detach()
    alignment = (output.x0 - target).square().sum() / target.square().sum().clamp(min=1e-6)
    return Loss(total=total + alignment_weight * alignment, bpp=bpp.mean(), mse=mse.mean())
