"""The paper's variance-guided flow: each position has a timestep of its own, which grows with the variance predicted there.

    t = 999 * (1 - exp(-sum over channels of softplus(w_c) * exp(logvar_c / 2)))     0 where nothing is uncertain

Source: DiT-IC (arXiv 2603.13162), its variance-guided flow, t = F(proj(sigma)); which monotonic F and proj are meant, the paper
leaves open, and these are ours. The release has one timestep everywhere and a gain instead: `flow`.

B photos, C latent channels, h x w positions, N = h w / p^2 tokens of p x p positions, D the transformer's width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.codecs.ditic.config import TransformerConfig
from pipeline.codecs.ditic.sana import SanaTransformer

LAST_TIMESTEP = 999


class PseudoTimestep(nn.Module):
    """logvar, B x C x h x w -> t, B x 1 x h x w, float32 in 0..999, that grows with every channel's variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # At first a standard deviation of 1 in all channels is at 632.
        self.weight = nn.Parameter(torch.full((channels,), math.log(math.expm1(1 / channels))))

    def forward(self, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar.float().clamp(-30.0, 20.0))
        noise = torch.einsum("bchw,c->bhw", std, F.softplus(self.weight.float()))
        return LAST_TIMESTEP * -torch.expm1(-noise)[:, None]


class PacedTransformer(SanaTransformer):
    """SANA with a timestep for each token. Weights and their names are SANA's, and those of `pseudo_timestep`."""

    def __init__(self, config: TransformerConfig, *, latent_channels: int, caption_channels: int) -> None:
        super().__init__(config, latent_channels=latent_channels, caption_channels=caption_channels)
        self.pseudo_timestep = PseudoTimestep(latent_channels)

    def forward(self, latent: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        """Velocity, B x C x h x w.

        Args:
            latent: B x C x h x w.
            condition: B x tokens x channels.
            timestep: B x 1 x h x w, 0..999; of a token, the mean counts.
        """
        patch = self.patch_size
        batch, _, height, width = latent.shape
        rows, columns = height // patch, width // patch
        x = self.patch_embed(latent)  # B x N x D
        paces = F.avg_pool2d(timestep.float(), patch).flatten()
        modulation, embedded = self.time_embed(paces, x.dtype)
        modulation, embedded = modulation.view(batch, rows * columns, 6, -1), embedded.view(batch, rows * columns, 1, -1)
        condition = self.caption_norm(self.caption_projection(condition).view(batch, -1, x.shape[-1]))
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = checkpoint(_run, block, x, condition, modulation, (rows, columns), use_reentrant=False)
            else:
                x = _run(block, x, condition, modulation, (rows, columns))
        shift, scale = (self.scale_shift_table + embedded).unbind(2)
        x = self.proj_out(self.norm_out.norm(x) * (1 + scale) + shift)
        return F.pixel_shuffle(x.view(batch, rows, columns, patch**2, -1).permute(0, 4, 3, 1, 2).flatten(1, 2), patch)


def _run(block: Any, x: Tensor, condition: Tensor, modulation: Tensor, shape: tuple[int, int]) -> Tensor:
    """One block of SANA: B x N x D -> B x N x D, modulated token by token (B x N x 6 x D)."""
    shift, scale, gate, ff_shift, ff_scale, ff_gate = (block.scale_shift_table + modulation).unbind(2)
    x = x + gate * block.attn1((block.norm1(x) * (1 + scale) + shift).to(x.dtype))
    x = x + block.attn2(x, condition)
    tokens = block.norm2(x) * (1 + ff_scale) + ff_shift
    return x + ff_gate * block.ff(tokens.unflatten(1, shape).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
