"""Continuous latent <-> symbols: analysis, hyperprior, and the four-step context model.

    lat  B x 32 x H/f x W/f       y, y_hat, base, means, scales  B x 320 x h x w    h = H/2f
    aux  B x 320 x H/16 x W/16    z, z_hat                       B x 160 x h/4 x w/4

                 lat, aux --g_a--> y --h_a--> z --round--> z_hat --h_s--> base
                                   |                                       |
          step k = 0..3:   symbols = round(y - mean)  <--means, scales--  adapter_out[k](g_c(adapter_in[k](base)))
                                   |                                       ^
                        y_k = symbols + mean + LRP[k](y_k, base) ----------+  base takes y_k where step k coded

What the decoder needs before the last symbol (`h_s`, the adapters, `g_c`, `LRP`, and the leaves between) is `ENTROPY_PATH`;
`pipeline.entropy.fixed_point` replaces its leaves, and `hyper_synthesis` and `context_steps` then run on integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.codecs.ditic.blocks import (
    DCB,
    Adapter,
    Add,
    Concat,
    Down3x3,
    HalfTanh,
    HyperDown,
    HyperUp,
    Identity,
    Upsample,
)
from pipeline.codecs.ditic.config import DiTICConfig, LatentCodecConfig
from pipeline.codecs.ditic.external import EntropyBottleneck, GaussianConditional

NUM_STEPS = 4
SCALE_TABLE: tuple[float, ...] = tuple(np.exp(np.linspace(np.log(0.11), np.log(256), 64)).tolist())
"""Standard deviations of the 64 Gaussian CDFs."""

ENTROPY_PATH = ("h_s", "adapter_in", "g_c", "adapter_out", "LRP", "to_latent", "concat", "lrp_tanh", "add_lrp")
"""Names of the submodules that the decoder runs before the last symbol is known."""

# Cell positions (0,0), (0,1), (1,0), (1,1) are numbered 0..3; entry [k][g] is where step k codes channel group g.
_POSITIONS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What the synthesis side makes of the decoded latent; h, w doubled."""

    mean: Tensor  # B x 32 x 2h x 2w
    logvar: Tensor  # B x 32 x 2h x 2w
    residual: Tensor  # B x 32 x 2h x 2w
    prompt: Tensor  # B x 320 x 2h x 2w


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """Result of a training pass."""

    y_hat: Tensor
    scales: Tensor
    y_likelihoods: Tensor  # B x C x h x w, in (0, 1]
    z_likelihoods: Tensor  # B x Z x h/4 x w/4, in (0, 1]


class LatentCodec(nn.Module):
    """Analysis and synthesis transforms and the entropy model between them."""

    def __init__(self, config: DiTICConfig) -> None:
        super().__init__()
        c = config.latent
        y, z = c.y_channels, c.z_channels
        self.y_channels = y
        self.g_a = Analysis(c, config.autoencoder.latent_channels, config.aux_encoder.out_channels, config.aux_stride)
        self.h_a = HyperAnalysis(y, z)
        self.h_s = HyperSynthesis(y, z)
        self.g_c = _Stack(
            "block",
            *(DCB(c.context_channels, c.context_channels) for _ in range(c.num_context_blocks)),
            nn.Conv2d(c.context_channels, c.context_channels, 1),
        )
        self.adapter_in = _per_step(lambda: Adapter(y, c.context_channels, kernel=c.adapter_kernel))
        self.adapter_out = _per_step(lambda: Adapter(c.context_channels, 2 * y, kernel=c.adapter_kernel))
        self.LRP = _per_step(lambda: _Stack("block", Adapter(2 * y, y, kernel=c.adapter_kernel)))
        # Leaves without weights; each has a scale of its own once frozen.
        self.to_latent = Identity()
        self.concat = Concat()
        self.lrp_tanh = HalfTanh()
        self.add_lrp = Add()

        lat = config.autoencoder.latent_channels
        self.g_s = _head(c.num_head_blocks, y, y, lat)
        self.scale = _head(c.num_head_blocks, y, c.scale_channels, lat)
        self.prompt = _head(c.num_head_blocks, y, y, y)
        self.aux = _Stack("block", *(DCB(y, y) for _ in range(c.num_aux_blocks)), Upsample(y, y), _conv3x3(y, lat))

        if config.autoencoder.narrow:
            with torch.no_grad():
                # As initialised, y has a standard deviation of 0.2: it would all round to zero, and nothing would be learned.
                self.g_a.shrink.weight.mul_(10)

        self.entropy_bottleneck = EntropyBottleneck(z)
        self.gaussian_conditional = GaussianConditional(list(SCALE_TABLE))
        if c.bottleneck_cdf_length:
            self._reserve_tables(z, c.bottleneck_cdf_length)

    def forward(self, lat: Tensor, aux: Tensor) -> tuple[Heads, Coded]:
        """Training pass: rounding with straight-through gradients, likelihoods under additive uniform noise."""
        y = self.g_a(lat, aux)
        z = self.h_a(y)
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self.z_medians().view(1, -1, 1, 1)
        base = self.hyper_synthesis(_round_straight_through(z - medians) + medians)
        scales: list[Tensor] = []
        likelihoods: list[Tensor] = []

        def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
            packed = pack(y, k)
            likelihoods.append(self.gaussian_conditional(packed, scale, mean)[1])
            scales.append(unpack(scale, k))
            return _round_straight_through(packed - mean)

        y_hat = self.context_steps(base, code)
        coded = Coded(
            y_hat=y_hat, scales=sum_of(scales), y_likelihoods=torch.cat(likelihoods, dim=1), z_likelihoods=z_likelihoods
        )
        return self.heads(y_hat, coded.scales), coded

    def hyper_synthesis(self, z_hat: Any) -> Any:
        """z_hat -> base; tensors, or `Fixed` once frozen."""
        return self.to_latent(self.h_s(z_hat))

    def context_steps(self, base: Any, code: Callable[[int, Any, Any], Any]) -> Any:
        """The four steps of the context model; returns y_hat, B x 320 x h x w (tensor or `Fixed`, as `base` is).

        Args:
            base: output of `hyper_synthesis`.
            code: given (k, means, scales), each B x 80 x h x w, returns the symbols of step k in that shape: rounded from
                y when encoding, read from the stream when decoding.
        """
        y_hat = None
        for k in range(NUM_STEPS):
            mask = step_mask(k, base)
            means, scales = self.adapter_out[k](self.g_c(self.adapter_in[k](base))).chunk(2, dim=1)
            mean = pack(self.to_latent(means), k)
            y_k = unpack(mean + code(k, mean, pack(scales, k)), k)
            correction = self.lrp_tanh(self.LRP[k](self.concat(y_k, base)) * mask)
            y_k = self.add_lrp(y_k, correction)
            base = base * (1 - mask) + y_k
            y_hat = y_k if y_hat is None else y_hat + y_k
        return y_hat

    def heads(self, y_hat: Tensor, scales: Tensor) -> Heads:
        """Mean, log-variance, residual and prompt of the latent, at twice the height and width of `y_hat`."""
        scales = scales.clamp(min=SCALE_TABLE[0])
        return Heads(mean=self.g_s(y_hat), logvar=self.scale(scales), residual=self.aux(y_hat), prompt=self.prompt(y_hat))

    def z_medians(self) -> Tensor:
        """Centre of each channel of z, constant to the gradient (the auxiliary loss moves it)."""
        return self.entropy_bottleneck._get_medians().detach().flatten()

    def _reserve_tables(self, z_channels: int, bottleneck_length: int) -> None:
        # The tables of a released checkpoint are loaded, never computed: they only need their shapes here.
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32)

        for model, rows, length in (
            (self.entropy_bottleneck, z_channels, bottleneck_length),
            (self.gaussian_conditional, len(SCALE_TABLE), 3133),
        ):
            model._quantized_cdf, model._offset, model._cdf_length = zeros(rows, length), zeros(rows), zeros(rows)


class Analysis(nn.Module):
    """g_a: the autoencoder's latent and the auxiliary features -> y."""

    def __init__(self, c: LatentCodecConfig, lat_channels: int, aux_channels: int, aux_stride: int) -> None:
        super().__init__()
        width = c.lat_channels + c.aux_channels
        self.pre1 = nn.Sequential(_conv3x3(lat_channels, c.lat_channels))
        self.pre2 = nn.Sequential(Down3x3(aux_channels, c.aux_channels, stride=aux_stride))
        y = c.y_channels
        down = Down3x3(width, y)
        self.analysis_transform = nn.Sequential(DCB(width, width), DCB(width, width), down, DCB(y, y), DCB(y, y))

    @property
    def shrink(self) -> nn.Conv2d:
        """The convolution that sets the scale of y."""
        down = self.analysis_transform[2]
        assert isinstance(down, Down3x3)
        return down.down

    def forward(self, lat: Tensor, aux: Tensor) -> Tensor:
        return self.analysis_transform(torch.cat((self.pre1(lat), self.pre2(aux)), dim=1))


class HyperAnalysis(nn.Module):
    """h_a: y -> z, four times smaller."""

    def __init__(self, y: int, z: int) -> None:
        super().__init__()
        self.reduction = nn.Sequential(DCB(y, y), DCB(y, z), HyperDown(z), HyperDown(z))

    def forward(self, y: Tensor) -> Tensor:
        return self.reduction(y)


class HyperSynthesis(nn.Module):
    """h_s: z_hat -> base, four times larger."""

    def __init__(self, y: int, z: int) -> None:
        super().__init__()
        self.increase = nn.Sequential(HyperUp(z), HyperUp(z), DCB(z, y), DCB(y, y))

    def forward(self, z_hat: Any) -> Any:
        return self.increase(z_hat)


def step_mask(k: int, like: Any) -> Tensor:
    """1 where step k codes, 0 elsewhere: 1 x C x h x w, in the type and on the device of `like`."""
    channels, height, width = like.shape[1:]
    mask = torch.zeros(4, 2, 2, dtype=like.dtype, device=like.device)
    for group, position in enumerate(_POSITIONS[k]):
        mask[group, position // 2, position % 2] = 1
    mask = mask.repeat(1, height // 2, width // 2).repeat_interleave(channels // 4, dim=0)
    return mask.unsqueeze(0)


def pack(x: Any, k: int) -> Any:
    """What step k codes of x: B x C x h x w -> B x C/4 x h x w (one channel group at every position)."""
    a, b, c, d = (x * step_mask(k, x)).chunk(4, dim=1)
    return a + b + c + d


def unpack(x: Any, k: int) -> Any:
    """Inverse of `pack`, zero where step k does not code: B x C/4 x h x w -> B x C x h x w."""
    wide = x.repeat(1, 4, 1, 1)
    return wide * step_mask(k, wide)


def sum_of(parts: list[Any]) -> Any:
    """Sum of the four steps' tensors."""
    a, b, c, d = parts
    return a + b + c + d


class _Stack(nn.Module):
    """A sequence under a given attribute name, as the released checkpoints have it."""

    def __init__(self, attribute: str, *layers: nn.Module) -> None:
        super().__init__()
        self.attribute = attribute
        setattr(self, attribute, nn.Sequential(*layers))

    def forward(self, x: Any) -> Any:
        return getattr(self, self.attribute)(x)


def _head(num_blocks: int, channels: int, up_channels: int, out_channels: int) -> _Stack:
    blocks = (DCB(channels, channels) for _ in range(num_blocks))
    return _Stack("synthesis_transform", *blocks, Upsample(channels, up_channels), _conv3x3(up_channels, out_channels))


def _per_step(make: Callable[[], nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(make() for _ in range(NUM_STEPS))


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _round_straight_through(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()
