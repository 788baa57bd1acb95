"""One step of variance-guided flow: from the decoded mean to the latent that the autoencoder renders.

    x0 = mean - sigma0 * gain * v + residual,  gain = min(1, 0.4 + 0.15 * exp(logvar / 2))

Where the entropy model is unsure of a position (large variance), the transformer's velocity v counts more. So does the release;
with `TransformerConfig.pseudo_timestep` it is as in the paper: x0 = mean - v(mean, t) + residual, t of each position its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.codecs.ditic.config import TransformerConfig
from pipeline.codecs.ditic.pseudo_timestep import PacedTransformer
from pipeline.codecs.ditic.sana import SanaTransformer

TIMESTEP = 999
SHIFT = 3.0
"""Time shift of the flow-matching schedule."""
SIGMA0 = SHIFT * (TIMESTEP / 1000) / (1 + (SHIFT - 1) * TIMESTEP / 1000)
"""Noise level at `TIMESTEP` after the shift."""


def build_transformer(config: TransformerConfig, *, latent_channels: int, caption_channels: int) -> SanaTransformer:
    """SANA of these sizes; with `pseudo_timestep`, with a timestep for each token."""
    kind = PacedTransformer if config.pseudo_timestep else SanaTransformer
    return kind(config, latent_channels=latent_channels, caption_channels=caption_channels)


def one_step(
    transformer: nn.Module, mean: Tensor, logvar: Tensor, residual: Tensor, condition: Tensor, timesteps: Tensor
) -> Tensor:
    """Denoised latent, B x 32 x h x w float32; `mean`, `logvar` and `residual` have its shape.

    Args:
        condition: B x tokens x channels.
        timesteps: one entry, `TIMESTEP`; does not count where positions have their own.
    """
    if isinstance(transformer, PacedTransformer):
        velocity = transformer(mean, condition, transformer.pseudo_timestep(logvar))
        return mean.float() - velocity.float() + residual.float()
    velocity = transformer(mean, condition, timesteps.expand(mean.shape[0]))
    std = torch.exp(0.5 * logvar.float().clamp(-30.0, 20.0))
    gain = (0.4 + 0.15 * std).clamp(max=1.0)
    return mean.float() - SIGMA0 * gain * velocity.float() + residual.float()
