"""The blocks that DiT-IC's own networks are made of.

    DCB(i, o)      x -> [adaptor 1x1 if i != o] -> t = x + dc(x) -> t + ffn(t) [-> + x]
                       dc:  1x1, WSiLU, depthwise 3x3, 1x1
                       ffn: 1x1 o-4o, WSiLU, halves added, 1x1 2o-o
    Adapter(i, o)  three convolutions i-m-m-o, GELU between, m = (i + o) / 2 if not given
    Upsample(i, o) 3x3 (or as given) i-i, GELU, 1x1 i-4o, PixelShuffle 2

Every arithmetic step is a leaf module (`nn.Conv2d`, `WSiLU`, `nn.GELU`, `Add`, ...), the leaves without weights too:
`pipeline.entropy.fixed_point` puts an integer twin in the place of each leaf, and the same `forward` then runs on
integers. Names of submodules are those of the released checkpoints; aliases (`down`, `up` beside `branch1`) included.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.entropy.fixed_point import Fixed

STRIP_POSITIONS = 1 << 15
"""Larger inputs pass a `FeedForward` in strips of about so many positions: its inner layers are four times as wide."""


def joined(strips: Iterable[Any], height: int) -> Any:
    """Strips of rows, tensors or `Fixed`, as one map of this height; each is dropped once it is in place."""
    out, top, strip = None, 0, None
    for strip in strips:
        values = strip.values if isinstance(strip, Fixed) else strip
        if out is None:
            batch, channels, _, width = values.shape
            out = values.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)
        out[:, :, top : top + values.shape[2]] = values
        top += values.shape[2]
    assert out is not None
    assert top == height
    return strip.map(lambda _: out) if isinstance(strip, Fixed) else out


class WSiLU(nn.Module):
    """x * sigmoid(4 x)."""

    def forward(self, x: Tensor) -> Tensor:
        # As the release computes it, to the last bit: silu(4 x) / 4 rounds otherwise, and its float streams would not decode.
        return torch.sigmoid(4 * x) * x if torch.is_grad_enabled() else torch.sigmoid_(4 * x).mul_(x)


class HalfTanh(nn.Module):
    """0.5 * tanh(x): bounds the latent residual prediction to half a quantisation step."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * torch.tanh(x)


class Add(nn.Module):
    """Sum of two tensors of one shape."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Halves(Add):
    """Sum of the two halves of a tensor's channels."""


class Concat(nn.Module):
    """Concatenation along channels."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat((a, b), dim=1)


class Identity(nn.Module):
    """Itself; the fixed-point twin brings its input to a given scale."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class FeedForward(nn.Sequential):
    """1x1 o-4o, WSiLU, halves added, 1x1 2o-o."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 4 * channels, 1), WSiLU(), nn.Conv2d(2 * channels, channels, 1))
        self.halves = Halves()

    def forward(self, x: Any) -> Any:
        # Every layer is pointwise, so that strips of rows give what the whole would give.
        batch, _, height, width = x.shape
        num_strips = batch * height * width // STRIP_POSITIONS
        if self.training or num_strips < 2:
            return self._whole(x)
        return joined((self._whole(strip) for strip in x.split(-(-height // num_strips), 2)), height)

    def _whole(self, x: Any) -> Any:
        expand, activation, project = self[0], self[1], self[2]
        return project(self.halves(*activation(expand(x)).chunk(2, dim=1)))


class DCB(nn.Module):
    """Depthwise convolution block: B x i x h x w -> B x o x h x w."""

    def __init__(self, in_channels: int, out_channels: int, *, outer_shortcut: bool = False) -> None:
        super().__init__()
        c = out_channels
        if in_channels != c:
            self.adaptor = nn.Conv2d(in_channels, c, 1)
        self.dc = nn.Sequential(nn.Conv2d(c, c, 1), WSiLU(), nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, c, 1))
        self.ffn = FeedForward(c)
        self.add_dc = Add()
        self.add_ffn = Add()
        self.add_outer = Add() if outer_shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "adaptor"):
            x = self.adaptor(x)
        t = self.add_dc(x, self.dc(x))
        t = self.add_ffn(t, self.ffn(t))
        return t if self.add_outer is None else self.add_outer(t, x)


class Down3x3(nn.Module):
    """3x3 convolution, stride 1 or 2."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 2) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.branch1 = self.down

    def forward(self, x: Tensor) -> Tensor:
        return self.branch1(x)


class HyperDown(nn.Module):
    """2x2 stride-2 convolution, then a DCB with outer shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 2, stride=2)
        self.conv = DCB(channels, channels, outer_shortcut=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.down(x))


class SubpixelUp(nn.Module):
    """1x1 convolution and PixelShuffle 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class HyperUp(nn.Module):
    """Twice the height and width, then a DCB with outer shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = SubpixelUp(channels)
        self.conv = DCB(channels, channels, outer_shortcut=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.up(x))


class Upsample(nn.Module):
    """B x i x h x w -> B x o x 2h x 2w."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(in_channels, 4 * out_channels, 1),
            nn.PixelShuffle(2),
        )
        self.branch1 = self.up

    def forward(self, x: Tensor) -> Tensor:
        return self.branch1(x)


class Adapter(nn.Module):
    """Three convolutions with GELU between: B x i x h x w -> B x o x h x w."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, middle: int | None = None) -> None:
        super().__init__()
        middle = middle or (in_channels + out_channels) // 2
        self.branch1 = nn.Sequential(
            nn.Conv2d(in_channels, middle, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(middle, middle, kernel, padding=kernel // 2),
            nn.GELU(),
            nn.Conv2d(middle, out_channels, kernel, padding=kernel // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.branch1(x)
