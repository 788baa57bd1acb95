"""What training minimises: rate, distortion and alignment.

    total = mean of (rate_weight_q * bits per pixel + distortion) * sqrt(least rate_weight / rate_weight_q)
            + distillation * margin cosine

Each photo of a batch has a quality q of its own. The square root lies between counting squared errors alike, where the lowest
rate would drown the others, and counting bits alike, where the highest would. The terms of the distortion are in
`distortion`, the alignment in `self_distillation`; a term of weight 0 is not computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.codecs.ditic.model import Output
from pipeline.training.config import TrainConfig
from pipeline.training.distortion import Distortion
from pipeline.training.self_distillation import margin_cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Scalars of one batch."""

    total: Tensor
    bpp: Tensor
    mse: Tensor
    """On the [-1, 1] scale."""
    terms: dict[str, Tensor]
    """Each term of the distortion and of the alignment that has a weight, without it; no gradients."""

    def psnr(self) -> Tensor:
        """Decibels; the peak-to-peak range is 2, so its square is 4."""
        return 10 * torch.log10(4 / self.mse)


class Objective(nn.Module):
    """The objective of a run."""

    def __init__(self, config: TrainConfig) -> None:
        """Load the networks of the terms that have a weight.

        Raises:
            SettingError: a term needs a file of weights, and none is given.
            CheckpointError: such a file holds something else.
        """
        super().__init__()
        self.config, self.weights = config, config.loss
        self.distortion = Distortion(config.loss, lpips_file=config.lpips_file, dists_file=config.dists_file)

    def forward(self, x: Tensor, output: Output, quality: Tensor, rate_weights: Tensor) -> Loss:
        """Of a batch x, B x 3 x H x W in [-1, 1], each at its quality, B; `rate_weights` are those of all qualities.

        A mean over the batch, so that it may be computed in parts.
        """
        rate_weight = rate_weights[quality]
        bpp = bits_per_pixel(x, output)
        terms = self.distortion(x, output.x_hat)
        loss = rate_weight * bpp
        for name, value in terms.items():
            loss = loss + getattr(self.weights, name) * value
        total = (loss * (rate_weights.min() / rate_weight).sqrt()).mean()
        if self.weights.distillation:
            terms["distillation"] = margin_cosine(output.x0, output.lat, margin=self.config.distillation_margin)
            total = total + self.weights.distillation * terms["distillation"]
        return Loss(
            total=total,
            bpp=bpp.mean().detach(),
            mse=(output.x_hat.detach() - x).square().mean(),
            terms={name: value.detach().mean() for name, value in terms.items()},
        )


def bits_per_pixel(x: Tensor, output: Output) -> Tensor:
    """Estimated rate of each photo, B: the information of its y and z."""
    coded = output.coded
    bits = -(coded.y_likelihoods.log2().flatten(1).sum(1) + coded.z_likelihoods.log2().flatten(1).sum(1))
    return bits / (x.shape[2] * x.shape[3])
