"""The whole of DiT-IC as one module: the training pass, and the float halves that the codec runs around the entropy path.

x --DC-AE encoder--> lat --.                                    .--> mean, logvar, residual --.
  --aux encoder----> aux --+--LatentCodec--> y_hat, scales --heads                            +--one step--> x0
                                                                '--> prompt --Condition-------'
x0 --DC-AE decoder--> x_hat

Steps are numbered as in README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codecs.ditic.autoencoder import DCAE, AuxEncoder
from pipeline.codecs.ditic.condition import Condition
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.flow import TIMESTEP, build_transformer, one_step
from pipeline.codecs.ditic.latent_codec import SCALE_TABLE, Coded, LatentCodec

NETWORKS = (
    "vae",
    "DiT",
    "prompter",
    "aux_codec",
    "codec.g_a",
    "codec.h_a",
    "codec.g_s",
    "codec.scale",
    "codec.prompt",
    "codec.aux",
)
"""The submodules outside the entropy path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What the transformer starts from."""

    mean: Tensor  # B x 32 x H/f x W/f
    logvar: Tensor  # B x 32 x H/f x W/f
    residual: Tensor  # B x 32 x H/f x W/f


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Result of a training pass."""

    x_hat: Tensor  # B x 3 x H x W, about [-1, 1], not clamped
    lat: Tensor  # B x 32 x H/f x W/f, what the autoencoder made of x
    x0: Tensor  # B x 32 x H/f x W/f, what came of it after coding and the one step
    condition: Tensor  # B x tokens x channels, what steered the transformer
    coded: Coded


class DiTIC(nn.Module):
    """DiT-IC of any size; submodule names are those of the released checkpoints."""

    timesteps: Tensor

    def __init__(self, config: DiTICConfig, *, with_priors: bool = True) -> None:
        """Make one with random weights.

        Args:
            with_priors: as of `LatentCodec`.
        """
        super().__init__()
        self.config = config
        lat = config.autoencoder.latent_channels
        self.vae = DCAE(config.autoencoder)
        self.DiT = build_transformer(config.transformer, latent_channels=lat, caption_channels=config.condition.channels)
        self.codec = LatentCodec(config, with_priors=with_priors)
        self.prompter = Condition(config.condition, config.latent.prompt_channels or config.latent.y_channels)
        if config.aux_encoder is not None:
            self.aux_codec = AuxEncoder(config.aux_encoder)
        self.register_buffer("timesteps", torch.full((1,), TIMESTEP, dtype=torch.int64))

    def forward(self, x: Tensor, quality: Tensor) -> Output:
        """Training pass over B photos in [-1, 1], sides multiples of `config.multiple`, each at its quality."""
        lat, aux = self.analyse(x)
        coded = self.codec(lat, aux, quality)
        heads, condition = self.steer(coded.y_hat, coded.scales, self.codec.gain(quality))
        x0 = self.denoise(heads, condition)
        return Output(x_hat=self.render(x0), lat=lat, x0=x0, condition=condition, coded=coded)

    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x, B x 3 x H x W in [-1, 1] -> (lat, aux), steps 1 and 2; no aux without its encoder."""
        patches = F.pixel_unshuffle(x, self.config.autoencoder.patch_size)
        lat = self.vae.encode(patches) * self.config.autoencoder.scaling_factor
        return lat, None if self.config.aux_encoder is None else self.aux_codec((x + 1) / 2)

    def steer(self, y_hat: Tensor, scales: Tensor, gain: Tensor) -> tuple[Heads, Tensor]:
        """Decoded latent -> what the transformer starts from, and its condition (steps 8 and 9)."""
        # One after the other: of a large photo each of these takes gigabytes. The prompt is gone once it is pooled.
        gain = gain.to(y_hat.dtype)
        bounds_scales = self.config.latent.bounds_scales
        logvar = self.codec.scale((scales.clamp(min=SCALE_TABLE[0]) if bounds_scales else scales) / gain)
        y_hat = y_hat / gain
        condition = self.prompter(self.codec.prompt(y_hat))
        return Heads(mean=self.codec.g_s(y_hat), logvar=logvar, residual=self.codec.aux(y_hat)), condition

    def denoise(self, heads: Heads, condition: Tensor) -> Tensor:
        """x0, B x 32 x H/f x W/f (steps 10 and 11)."""
        return one_step(self.DiT, heads.mean, heads.logvar, heads.residual, condition, self.timesteps)

    def render(self, x0: Tensor) -> Tensor:
        """x0 -> x_hat, B x 3 x H x W, about [-1, 1] (step 12)."""
        patches = self.vae.decode(x0 / self.config.autoencoder.scaling_factor)
        return F.pixel_shuffle(patches, self.config.autoencoder.patch_size)
