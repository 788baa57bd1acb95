"""One step of variance-guided flow: from the decoded mean to the latent that the autoencoder renders.

    x0 = mean - sigma0 * gain * v + residual,  gain = min(1, 0.4 + 0.15 * exp(logvar / 2))

Where the entropy model is unsure of a position (large variance), the transformer's velocity v counts more. So does the release;
with `TransformerConfig.pseudo_timestep` it is as in the paper: x0 = mean - v(mean, t) + residual, t of each position its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.codecs.ditic.config import TransformerConfig
from pipeline.codecs.ditic.external import SanaTransformer2DModel
from pipeline.codecs.ditic.pseudo_timestep import PacedTransformer, PseudoTimestep

TIMESTEP = 999
SHIFT = 3.0
"""Time shift of the flow-matching schedule."""
SIGMA0 = SHIFT * (TIMESTEP / 1000) / (1 + (SHIFT - 1) * TIMESTEP / 1000)
"""Noise level at `TIMESTEP` after the shift."""


def build_transformer(config: TransformerConfig, *, latent_channels: int, caption_channels: int) -> SanaTransformer2DModel:
    """diffusers' `SanaTransformer2DModel` of these sizes: linear attention, no positional embedding."""
    kind = PacedTransformer if config.pseudo_timestep else SanaTransformer2DModel
    transformer = kind(
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        num_layers=config.num_layers,
        num_cross_attention_heads=config.num_cross_heads,
        cross_attention_head_dim=config.cross_head_dim,
        cross_attention_dim=config.num_cross_heads * config.cross_head_dim,
        caption_channels=caption_channels,
        mlp_ratio=config.mlp_ratio,
        attention_bias=False,
        sample_size=32,
        patch_size=config.patch_size,
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    if config.pseudo_timestep:
        transformer.pseudo_timestep = PseudoTimestep(latent_channels)
    return transformer


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
    velocity = transformer(mean, condition, timesteps.expand(mean.shape[0]), return_dict=False)[0]
    std = torch.exp(0.5 * logvar.float().clamp(-30.0, 20.0))
    gain = (0.4 + 0.15 * std).clamp(max=1.0)
    return mean.float() - SIGMA0 * gain * velocity.float() + residual.float()
