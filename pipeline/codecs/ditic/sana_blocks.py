"""What the autoencoder and the transformer (`sana`) share; names of weights are diffusers'.

B photos, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight + bias over the last axis; the mean of squares in float32."""

    def __init__(self, channels: int, *, bias: bool) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            x = x.to(self.weight.dtype)
        x = x * self.weight
        return x if self.bias is None else x + self.bias


def over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm` of each position's channels; x is B x C x H x W."""
    y: Tensor = norm(x.movedim(1, -1))
    return y.movedim(-1, 1)


class GatedConv(nn.Module):
    """SANA's feed-forward layer (GLUMBConv): 1x1, SiLU, depthwise 3x3, one half gates the other, 1x1; B x C x H x W."""

    def __init__(self, channels: int, expand_ratio: float = 4, *, residual: bool) -> None:
        """Make one.

        Args:
            residual: an RMS norm follows, and the input is added.
        """
        super().__init__()
        hidden = int(expand_ratio * channels)
        self.nonlinearity = nn.SiLU()
        self.conv_inverted = nn.Conv2d(channels, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm = RMSNorm(channels, bias=True) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv_depth(self.nonlinearity(self.conv_inverted(x)))
        hidden, gate = hidden.chunk(2, dim=1)
        y: Tensor = self.conv_point(hidden * self.nonlinearity(gate))
        return y if self.norm is None else over_channels(self.norm, y) + x


def filled(tensor: Tensor, fill: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """`tensor` as a parameter that `fill` has filled in place.

    On the meta device there is nothing to fill, and torch would import its compiler, which takes seconds, to fill it.
    """
    return nn.Parameter(tensor if tensor.is_meta else fill(tensor))
