"""Pixels <-> continuous latent: DC-AE, and ELIC's analysis transform as the auxiliary encoder.

    x    B x 3 x H x W, in [-1, 1]; DC-AE takes squares of p x p pixels as channels, B x 3p^2 x H/p x W/p
    lat  B x 32 x H/f x W/f, f = 32 at full size
    aux  B x 320 x H/16 x W/16

DC-AE (Chen et al., "Deep Compression Autoencoder", ICLR 2025) is as SANA uses it: RMS norm, SiLU, EfficientViT blocks. Its
structure, names of weights and numbers are those of diffusers' `AutoencoderDC`; tests compare the two. It is written here
because importing diffusers takes several times as long as decoding a photo.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codecs.ditic.config import AutoencoderConfig, AuxEncoderConfig
from pipeline.codecs.ditic.sana_blocks import GatedConv, RMSNorm, over_channels

_KERNEL = 5
"""Of the attention's second scale."""


class DCAE(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.narrow:
            # Every residual branch ends in an RMS norm: at weight 1 its noise would drown high frequencies at first.
            for name, parameter in self.named_parameters():
                if name.endswith((".norm.weight", ".norm_out.weight")):
                    nn.init.constant_(parameter, 0.01)

    def encode(self, x: Tensor) -> Tensor:
        """lat, not scaled, of x."""
        return self.encoder(x)

    def decode(self, lat: Tensor) -> Tensor:
        """x, about [-1, 1], of lat, not scaled."""
        return self.decoder(lat)


class Encoder(nn.Module):
    """x -> lat: stages of blocks with `Down` between them; a first stage without blocks begins with it."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, layers = config.block_channels, config.encoder_layers
        num_in = 3 * config.patch_size**2
        self.conv_in = nn.Conv2d(num_in, channels[0], 3, padding=1) if layers[0] else Down(num_in, channels[1], shortcut=False)

        def stage(i: int) -> Iterator[nn.Module]:
            yield from (_block(config, i) for _ in range(layers[i]))
            if layers[i] and i + 1 < len(channels):
                yield Down(channels[i], channels[i + 1])

        self.down_blocks = nn.ModuleList(nn.Sequential(*stage(i)) for i in range(len(channels)))
        self.conv_out = nn.Conv2d(channels[-1], config.latent_channels, 3, padding=1)
        self.group_size = 0 if config.narrow else channels[-1] // config.latent_channels
        """Channels whose mean is added to each one of `lat`; 0 for none."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        lat: Tensor = self.conv_out(x)
        return lat + x.unflatten(1, (-1, self.group_size)).mean(dim=2) if self.group_size else lat


class Decoder(nn.Module):
    """lat -> x, the inverse of `Encoder`."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, layers, narrow = config.block_channels, config.decoder_layers, config.narrow
        num_out = 3 * config.patch_size**2
        self.conv_in = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.repeats = 0 if narrow else channels[-1] // config.latent_channels
        """Channels that each one of `lat` is added to; 0 for none."""

        def stage(i: int) -> Iterator[nn.Module]:
            if layers[i] and i + 1 < len(channels):
                # In a narrow decoder the shortcut would have to be taken away again by the convolution, at the price of half
                # the bits of bfloat16.
                yield Up(channels[i + 1], channels[i], interpolate=not narrow, shortcut=not narrow)
            yield from (_block(config, i) for _ in range(layers[i]))

        # Random weights are drawn from the deepest stage on.
        stages = [nn.Sequential(*stage(i)) for i in reversed(range(len(channels)))]
        self.up_blocks = nn.ModuleList(reversed(stages))
        last = channels[0] if layers[0] else channels[1]
        self.norm_out: nn.Module = nn.Identity() if narrow else RMSNorm(last, bias=True)
        self.conv_act: nn.Module = nn.Identity() if narrow else nn.ReLU()
        self.conv_out = (
            nn.Conv2d(last, num_out, 3, padding=1) if layers[0] else Up(last, num_out, interpolate=not narrow, shortcut=False)
        )

    def forward(self, lat: Tensor) -> Tensor:
        x: Tensor = self.conv_in(lat)
        if self.repeats:
            x = x + lat.repeat_interleave(self.repeats, dim=1, output_size=lat.shape[1] * self.repeats)
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return self.conv_out(self.conv_act(over_channels(self.norm_out, x)))


class Down(nn.Module):
    """Half the width and height: a 3x3 convolution of stride 2 and, as a shortcut, means of groups of the 2x2 cells."""

    def __init__(self, num_in: int, num_out: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.group_size = 4 * num_in // num_out if shortcut else 0
        self.conv = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        if not self.group_size:
            return y
        return y + F.pixel_unshuffle(x, 2).unflatten(1, (-1, self.group_size)).mean(dim=2)


class Up(nn.Module):
    """Twice the width and height: a 3x3 convolution, and repeated channels as a shortcut."""

    def __init__(self, num_in: int, num_out: int, *, interpolate: bool, shortcut: bool) -> None:
        """Make one.

        Args:
            interpolate: repeat pixels before the convolution, instead of PixelShuffle after it.
        """
        super().__init__()
        self.interpolate = interpolate
        self.repeats = 4 * num_out // num_in if shortcut else 0
        self.conv = nn.Conv2d(num_in, num_out if interpolate else 4 * num_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.interpolate:
            y: Tensor = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        else:
            y = F.pixel_shuffle(self.conv(x), 2)
        if not self.repeats:
            return y
        return y + F.pixel_shuffle(x.repeat_interleave(self.repeats, dim=1, output_size=x.shape[1] * self.repeats), 2)


class ResBlock(nn.Module):
    """x + norm((3x3, SiLU, 3x3)(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.nonlinearity = nn.SiLU()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = RMSNorm(channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return over_channels(self.norm, self.conv2(self.nonlinearity(self.conv1(x)))) + x


class EfficientViTBlock(nn.Module):
    """Linear attention at two scales, then a gated convolution, each with a shortcut."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.attn = MultiscaleAttention(channels, head_dim)
        self.conv_out = GatedConv(channels, residual=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))


class MultiscaleAttention(nn.Module):
    """x + norm(attention(x)): ReLU linear attention of the positions, and of what a 5x5 convolution makes of q, k and v."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        num_heads = channels // head_dim
        inner = num_heads * head_dim
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_qkv_multiscale = nn.ModuleList([QKVProjection(inner, num_heads)])
        self.to_out = nn.Linear(2 * inner, channels, bias=False)
        self.norm_out = RMSNorm(channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        last = x.movedim(1, -1)
        qkv = torch.cat([self.to_q(last), self.to_k(last), self.to_v(last)], dim=3).movedim(-1, 1)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.to_qkv_multiscale)], dim=1)
        is_linear = height * width > self.head_dim
        if is_linear:
            qkv = qkv.float()
        query, key, value = qkv.reshape(batch, -1, 3 * self.head_dim, height * width).chunk(3, dim=2)
        attend = _linear_attention if is_linear else _quadratic_attention
        y = attend(F.relu(query), F.relu(key), value).to(x.dtype).reshape(batch, -1, height, width)
        y = self.to_out(y.movedim(1, -1)).movedim(-1, 1)
        return over_channels(self.norm_out, y) + x


class QKVProjection(nn.Module):
    """q, k and v of a second scale: a depthwise 5x5 convolution, then a 1x1 convolution in each head."""

    def __init__(self, inner: int, num_heads: int) -> None:
        super().__init__()
        channels = 3 * inner
        self.proj_in = nn.Conv2d(channels, channels, _KERNEL, padding=_KERNEL // 2, groups=channels, bias=False)
        self.proj_out = nn.Conv2d(channels, channels, 1, groups=3 * num_heads, bias=False)

    def forward(self, qkv: Tensor) -> Tensor:
        return self.proj_out(self.proj_in(qkv))


class AuxEncoder(nn.Module):
    """ELIC's g_a (He et al., CVPR 2022, figure 3): (x + 1) / 2 in [0, 1] -> B x out x H/16 x W/16."""

    def __init__(self, config: AuxEncoderConfig) -> None:
        super().__init__()
        n, m = config.width, config.out_channels
        self.analysis_transform = nn.Sequential(
            _down5x5(3, n),
            *(ResidualBottleneck(n) for _ in range(3)),
            _down5x5(n, n),
            *(ResidualBottleneck(n) for _ in range(3)),
            AttentionBlock(n),
            _down5x5(n, n),
            *(ResidualBottleneck(n) for _ in range(3)),
            _down5x5(n, m),
            AttentionBlock(m),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.analysis_transform(x)


class ResidualBottleneck(nn.Module):
    """x + (1x1 N-N/2, ReLU, 3x3, ReLU, 1x1)(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class AttentionBlock(nn.Module):
    """x + a(x) * sigmoid(b(x)) (Cheng et al., CVPR 2020); names of weights are compressai's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(*(ResidualUnit(channels) for _ in range(3)), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_a(x) * torch.sigmoid(self.conv_b(x)) + x


class ResidualUnit(nn.Module):
    """relu(x + (1x1 N-N/2, ReLU, 3x3, ReLU, 1x1)(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.conv(x) + x)


def _linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """All B x heads x head_dim x positions, float32; the cost grows with the positions, not with their square."""
    value = F.pad(value, (0, 0, 0, 1), value=1.0)  # a row of ones: the sums that the others are divided by
    y = torch.matmul(torch.matmul(value, key.transpose(-1, -2)), query)
    return y[:, :, :-1] / (y[:, :, -1:] + 1e-15)


def _quadratic_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `_linear_attention`, in any format: for few positions it is less work."""
    scores = torch.matmul(key.transpose(-1, -2), query).float()
    scores = scores / (scores.sum(dim=2, keepdim=True) + 1e-15)
    return torch.matmul(value, scores.to(value.dtype))


def _block(config: AutoencoderConfig, stage: int) -> nn.Module:
    channels = config.block_channels[stage]
    if stage < config.num_convolutional_stages:
        return ResBlock(channels)
    return EfficientViTBlock(channels, config.attention_head_dim)


def _down5x5(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 5, stride=2, padding=2)
