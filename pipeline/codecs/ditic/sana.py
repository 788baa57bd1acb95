"""SANA's transformer (Xie et al., ICLR 2025): linear attention, no positional embedding.

Structure, names of weights and numbers are those of diffusers' `SanaTransformer2DModel`; tests compare the two. It is written
here because importing diffusers takes several times as long as decoding a photo.

B photos, C latent channels, h x w positions, N = h w / p^2 tokens of p x p positions, D the transformer's width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.codecs.ditic.config import TransformerConfig
from pipeline.codecs.ditic.sana_blocks import GatedConv, RMSNorm, filled

_TIME_CHANNELS = 256
_MAX_PERIOD = 10_000
"""Of the sines that a timestep is told by."""


class SanaTransformer(nn.Module):
    """Velocity of a latent at a timestep, under a condition."""

    def __init__(self, config: TransformerConfig, *, latent_channels: int, caption_channels: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        width = config.num_heads * config.head_dim
        self.patch_embed = PatchEmbedding(latent_channels, width, config.patch_size)
        self.time_embed = TimeModulation(width)
        self.caption_projection = CaptionProjection(caption_channels, width)
        self.caption_norm = RMSNorm(width, bias=False)
        self.transformer_blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.scale_shift_table = filled(torch.empty(2, width), lambda table: table.normal_().div_(width**0.5))
        self.norm_out = ModulatedNorm(width)
        self.proj_out = nn.Linear(width, config.patch_size**2 * latent_channels)
        self.gradient_checkpointing = False

    def enable_gradient_checkpointing(self) -> None:
        """Compute each block anew on the way back, instead of keeping what it computed."""
        self.gradient_checkpointing = True

    def forward(self, latent: Tensor, condition: Tensor, timestep: Tensor) -> Tensor:
        """Velocity, B x C x h x w.

        Args:
            latent: B x C x h x w.
            condition: B x tokens x channels.
            timestep: B, 0..999.
        """
        batch, _, height, width = latent.shape
        rows, columns, p = height // self.patch_size, width // self.patch_size, self.patch_size
        x = self.patch_embed(latent)  # B x N x D
        modulation, embedded = self.time_embed(timestep, x.dtype)
        condition = self.caption_norm(self.caption_projection(condition).view(batch, -1, x.shape[-1]))
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = checkpoint(block, x, condition, modulation, rows, columns, use_reentrant=False)
            else:
                x = block(x, condition, modulation, rows, columns)
        x = self.proj_out(self.norm_out(x, embedded, self.scale_shift_table))
        x = x.reshape(batch, rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, -1, rows * p, columns * p)


class PatchEmbedding(nn.Module):
    """B x C x h x w -> B x N x D."""

    def __init__(self, num_in: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(num_in, width, patch_size, stride=patch_size)

    def forward(self, latent: Tensor) -> Tensor:
        return self.proj(latent).flatten(2).transpose(1, 2)


class TimeModulation(nn.Module):
    """Timesteps, T of any number -> what modulates the blocks, T x 6D, and the output, T x D."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = _TimeEmbedding(width)
        self.silu = nn.SiLU()
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedded = self.emb(timestep, dtype)
        return self.linear(self.silu(embedded)), embedded


class _TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = _TwoLayers(_TIME_CHANNELS, width)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        half = _TIME_CHANNELS // 2
        exponent = -math.log(_MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timestep.device)
        angles = timestep[:, None].float() * torch.exp(exponent / half)[None]
        return self.timestep_embedder(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1).to(dtype))


class _TwoLayers(nn.Module):
    def __init__(self, num_in: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_in, width)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(x)))


class CaptionProjection(nn.Module):
    """Tokens of the condition -> the transformer's width."""

    def __init__(self, num_in: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_in, width)
        self.act_1 = nn.GELU(approximate="tanh")
        self.linear_2 = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear_2(self.act_1(self.linear_1(tokens)))


class ModulatedNorm(nn.Module):
    """Layer norm, scaled and shifted by the timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)

    def forward(self, x: Tensor, embedded: Tensor, table: Tensor) -> Tensor:
        shift, scale = (table[None] + embedded[:, None]).chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


class Block(nn.Module):
    """Linear self-attention, cross-attention to the condition, gated convolution."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.num_heads * config.head_dim
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn1 = LinearAttention(width, config.num_heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn2 = CrossAttention(width, config.num_cross_heads)
        self.ff = GatedConv(width, config.mlp_ratio, residual=False)
        self.scale_shift_table = filled(torch.empty(6, width), lambda table: table.normal_().div_(width**0.5))

    def forward(self, x: Tensor, condition: Tensor, modulation: Tensor, rows: int, columns: int) -> Tensor:
        """B x N x D -> B x N x D.

        Args:
            condition: B x tokens x D.
            modulation: B x 6D, of a timestep.
        """
        table = self.scale_shift_table[None] + modulation.reshape(x.shape[0], 6, -1)
        shift, scale, gate, ff_shift, ff_scale, ff_gate = table.chunk(6, dim=1)
        x = x + gate * self.attn1((self.norm1(x) * (1 + scale) + shift).to(x.dtype))
        x = self.attn2(x, condition) + x
        tokens = self.norm2(x) * (1 + ff_scale) + ff_shift
        y = self.ff(tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2))
        return x + ff_gate * y.flatten(2, 3).permute(0, 2, 1)


class LinearAttention(nn.Module):
    """ReLU linear attention of B x N x D: the cost grows with N, not with its square."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (  # B x heads x head_dim x N
            project(x).transpose(1, 2).unflatten(1, (self.num_heads, -1)) for project in (self.to_q, self.to_k, self.to_v)
        )
        query, key, value = F.relu(query).float(), F.relu(key.transpose(2, 3)).float(), value.float()
        value = F.pad(value, (0, 0, 0, 1), value=1.0)  # a row of ones: the sums that the others are divided by
        y = torch.matmul(torch.matmul(value, key), query)
        y = (y[:, :, :-1] / (y[:, :, -1:] + 1e-15)).flatten(1, 2).transpose(1, 2).to(x.dtype)
        y = self.to_out[0](y)
        return y.clip(-65504, 65504) if x.dtype == torch.float16 else y


class CrossAttention(nn.Module):
    """Attention of B x N x D to the condition, B x tokens x D."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        query, key, value = (  # B x heads x N or tokens x head_dim
            projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(condition), self.to_v(condition))
        )
        y = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2).to(query.dtype)
        return self.to_out[0](y)
