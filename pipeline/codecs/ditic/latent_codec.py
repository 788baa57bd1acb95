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

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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
from pipeline.codecs.ditic.packing import Packing, in_strips, whole

NUM_STEPS = 4
SCALE_TABLE: tuple[float, ...] = tuple(torch.exp(torch.linspace(math.log(0.11), math.log(256), 64)).tolist())
"""Standard deviations of the 64 Gaussian CDFs. In float32 and by torch, as the release computes them: in float64, 46 of them
differ in their last bit, and so do the CDFs made of them."""

ENTROPY_PATH = ("h_s", "adapter_in", "g_c", "adapter_out", "LRP", "to_latent", "concat", "lrp_tanh", "add_lrp")
"""Names of the submodules that the decoder runs before the last symbol is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """Result of a training pass."""

    y_hat: Tensor
    scales: Tensor
    y_likelihoods: Tensor  # B x C x h x w, in (0, 1]
    z_likelihoods: Tensor  # B x Z x h/4 x w/4, in (0, 1]


class LatentCodec(nn.Module):
    """Analysis and synthesis transforms and the entropy model between them."""

    def __init__(self, config: DiTICConfig, *, with_priors: bool = True) -> None:
        """Make one with random weights.

        Args:
            with_priors: with the models of y and z that training needs; a frozen codec has their tables instead.
        """
        super().__init__()
        c, lat = config.latent, config.autoencoder.latent_channels
        y, z = c.y_channels, c.z_channels
        self.y_channels = y
        aux = (config.aux_encoder.out_channels, config.aux_stride) if config.aux_encoder else None
        self.g_a = Analysis(c, lat, aux)
        self.h_a = HyperAnalysis(y, z)
        self.h_s = HyperSynthesis(y, z)
        self._add_context_model(c)
        self._add_heads(c, lat)
        if c.num_qualities > 1:
            self.log_gain = nn.Parameter(torch.zeros(c.num_qualities, y))
            self.scale_bias = nn.Parameter(torch.zeros(c.num_qualities, y))

        if config.autoencoder.narrow:
            with torch.no_grad():
                # As initialised, y has a standard deviation of 0.2: it would all round to zero, and nothing would be learned.
                self.g_a.shrink.weight.mul_(10)

        if with_priors:
            self._add_priors(c, narrow=config.autoencoder.narrow)

    def _add_priors(self, c: LatentCodecConfig, *, narrow: bool) -> None:
        from pipeline.codecs.ditic.external import EntropyBottleneck, GaussianConditional

        # Ten times as wide as z is at first, its tables would take thousands of steps to shrink.
        self.entropy_bottleneck = EntropyBottleneck(c.z_channels, init_scale=1 if narrow else 10)
        self.gaussian_conditional = GaussianConditional(list(SCALE_TABLE))
        if c.bottleneck_cdf_length:
            self._reserve_tables(c.z_channels, c.bottleneck_cdf_length)

    def _add_context_model(self, c: LatentCodecConfig) -> None:
        y = c.y_channels
        self.g_c = _Stack(
            "block",
            *(DCB(c.context_channels, c.context_channels) for _ in range(c.num_context_blocks)),
            nn.Conv2d(c.context_channels, c.context_channels, 1),
        )

        def adapters(in_channels: int, out_channels: int) -> Iterator[Adapter]:
            kernel, middle = c.adapter_kernel, c.adapter_channels
            return (Adapter(in_channels, out_channels, kernel=kernel, middle=middle) for _ in range(NUM_STEPS))

        self.adapter_in = nn.ModuleList(adapters(y, c.context_channels))
        self.adapter_out = nn.ModuleList(adapters(c.context_channels, 2 * y))
        self.LRP = nn.ModuleList(_Stack("block", adapter) for adapter in adapters(2 * y, y))
        self.in_strips = False
        """Whether large maps pass the context model in strips: for integers, whose sums do not depend on it."""
        # Rows beyond its own that a strip needs: each 3x3 convolution reaches one further.
        adapter_reach = 3 * (c.adapter_kernel // 2)
        self._context_margin = 2 * adapter_reach + c.num_context_blocks
        self._correction_margin = adapter_reach
        # Leaves without weights; each has a scale of its own once frozen.
        self.to_latent = Identity()
        self.concat = Concat()
        self.lrp_tanh = HalfTanh()
        self.add_lrp = Add()

    def _add_heads(self, c: LatentCodecConfig, lat: int) -> None:
        y = c.y_channels
        up, prompt = c.head_channels or y, c.prompt_channels or y
        self.g_s = _Stack("synthesis_transform", *_head(c, c.num_head_blocks, up, lat))
        self.scale = _Stack("synthesis_transform", *_head(c, c.num_head_blocks, c.scale_channels, lat))
        self.prompt = _Stack("synthesis_transform", *_head(c, c.num_head_blocks, prompt, prompt))
        self.aux = _Stack("block", *_head(c, c.num_aux_blocks, up, lat))

    def forward(self, lat: Tensor, aux: Tensor | None, quality: Tensor) -> Coded:
        """Training pass: rounding with straight-through gradients, likelihoods under additive uniform noise.

        Args:
            quality: B integers, 0 .. num_qualities - 1.
        """
        y, z = self.analyse(lat, aux, self.gain(quality))
        _, z_likelihoods = self.entropy_bottleneck(z)
        medians = self.z_medians().view(1, -1, 1, 1)
        base = self.hyper_synthesis(_round_straight_through(z - medians) + medians)
        scales: list[Tensor] = []
        likelihoods: list[Tensor] = []
        packing = Packing(y)

        def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
            packed = packing.pack(y, k)
            likelihoods.append(self.gaussian_conditional(packed, scale, mean)[1])
            scales.append(scale)
            return _round_straight_through(packed - mean)

        y_hat = self.context_steps(base, code, self.scale_bias_of(quality))
        all_scales, y_likelihoods = packing.unpack(scales), torch.cat(likelihoods, dim=1)
        return Coded(y_hat=y_hat, scales=all_scales, y_likelihoods=y_likelihoods, z_likelihoods=z_likelihoods)

    def gain(self, quality: Tensor) -> Tensor:
        """What y is multiplied by before it is rounded, B x C x 1 x 1, for B qualities 0 .. num_qualities - 1."""
        if not hasattr(self, "log_gain"):
            return torch.ones(len(quality), 1, 1, 1, device=quality.device)
        return self.log_gain[quality].exp()[:, :, None, None]

    def scale_bias_of(self, quality: Tensor) -> Tensor:
        """What is added to every scale, B x C x 1 x 1 (C is 1 where there is one quality)."""
        if not hasattr(self, "scale_bias"):
            return torch.zeros(len(quality), 1, 1, 1, device=quality.device)
        return self.scale_bias[quality][:, :, None, None]

    @property
    def num_qualities(self) -> int:
        """Rates that these weights code at."""
        return len(self.log_gain) if hasattr(self, "log_gain") else 1

    def analyse(self, lat: Tensor, aux: Tensor | None, gain: Tensor) -> tuple[Tensor, Tensor]:
        """y, multiplied by `gain`, and its z."""
        y = self.g_a(lat, aux) * gain.to(lat.dtype)
        return y, self.h_a(y)

    def hyper_synthesis(self, z_hat: Any) -> Any:
        """z_hat -> base; tensors, or `Fixed` once frozen."""
        return self.to_latent(self.h_s(z_hat))

    def context_steps(self, base: Any, code: Callable[[int, Any, Any], Any], scale_bias: Any) -> Any:
        """The four steps of the context model; returns y_hat, B x 320 x h x w (tensor or `Fixed`, as `base` is).

        Args:
            base: output of `hyper_synthesis`.
            code: given (k, means, scales), each B x 80 x h x w, returns the symbols of step k in that shape: rounded from
                y when encoding, read from the stream when decoding.
            scale_bias: of each photo's quality.
        """
        packing = Packing(base)
        for k in range(NUM_STEPS):
            adapter_out: Any = self.adapter_out[k].branch1
            lrp: Any = self.LRP[k].get_submodule("block.0.branch1")

            def parameters(base: Any, k: int = k, adapter_out: Any = adapter_out) -> tuple[Any, Any]:
                packing = Packing(base)
                features = self.g_c(self.adapter_in[k](base))
                means, scales = packing.run(adapter_out, features, k, num_maps=2)
                return self.to_latent(means), scales + packing.pack(scale_bias, k)

            def corrected(base: Any, y_k: Any, k: int = k, lrp: Any = lrp) -> tuple[Any]:
                packing = Packing(base)
                both = self.concat(packing.unpack_one(y_k, k), base)
                (correction,) = packing.run(lrp, both, k, num_maps=1)
                return (self.add_lrp(y_k, self.lrp_tanh(correction)),)

            run = in_strips if self.in_strips else whole
            mean, scale = run(parameters, base, margin=self._context_margin)
            (y_k,) = run(corrected, base, mean + code(k, mean, scale), margin=self._correction_margin)
            base = packing.put(base, y_k, k)
        # Every place has been coded.
        return base

    def z_medians(self) -> Tensor:
        """Centre of each channel of z, constant to the gradient: found when the weights are frozen, or released with them."""
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

    def __init__(self, c: LatentCodecConfig, lat_channels: int, aux: tuple[int, int] | None) -> None:
        """aux: channels and stride of the auxiliary features, if there are any."""
        super().__init__()
        width = c.lat_channels + (c.aux_channels if aux else 0)
        self.pre1 = nn.Sequential(_conv3x3(lat_channels, c.lat_channels))
        if aux:
            self.pre2 = nn.Sequential(Down3x3(aux[0], c.aux_channels, stride=aux[1]))
        y = c.y_channels
        down = Down3x3(width, y)
        self.analysis_transform = nn.Sequential(DCB(width, width), DCB(width, width), down, DCB(y, y), DCB(y, y))

    @property
    def shrink(self) -> nn.Conv2d:
        """The convolution that sets the scale of y."""
        down = self.analysis_transform[2]
        assert isinstance(down, Down3x3)
        return down.down

    def forward(self, lat: Tensor, aux: Tensor | None) -> Tensor:
        x = self.pre1(lat)
        if aux is not None:
            x = torch.cat((x, self.pre2(aux)), dim=1)
        # One by one: called as a whole, the sequence would hold a large photo's x until its end.
        for layer in self.analysis_transform:
            x = layer(x)
        return x


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


class _Stack(nn.Module):
    """A sequence under a given attribute name, as the released checkpoints have it."""

    def __init__(self, attribute: str, *layers: nn.Module) -> None:
        super().__init__()
        self.attribute = attribute
        setattr(self, attribute, nn.Sequential(*layers))

    def forward(self, x: Any) -> Any:
        return getattr(self, self.attribute)(x)


def _head(c: LatentCodecConfig, num_blocks: int, up_channels: int, out_channels: int) -> Iterator[nn.Module]:
    for _ in range(num_blocks):
        yield DCB(c.y_channels, c.y_channels)
    yield Upsample(c.y_channels, up_channels, kernel=c.head_kernel)
    yield _conv3x3(up_channels, out_channels)


def _conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def _round_straight_through(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()
