"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.errors import SettingError

RATE_WEIGHTS = (0.2, 0.09, 0.042, 0.02)
"""Of four qualities, from the lowest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How much each term of the objective counts; 0 leaves it out. The rate has weights of its own."""

    mse: float = 1.0
    """Of the mean squared error on [-1, 1]."""
    ms_ssim: float = 0.08
    """Of 1 - MS-SSIM."""
    perceptual: float = 0.0
    """Of the distance that needs no download."""
    lpips: float = 0.0
    dists: float = 0.0
    distillation: float = 0.0
    """Of the margin cosine between the decoded latent and the encoder's; 0.05 in the release."""
    guidance: float = 0.0
    """Of the condition's contrast with the text embeddings beside the photos; nothing where there are none."""
    adversarial: float = 0.0
    """Against the distortion's pull on the decoder's last layer; 0.5 in the paper."""
    auxiliary: float = 1.0
    """Of the loss that lets the quantiles of z follow; any weight but 0 is as good, for nothing else moves them."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not 0 <= getattr(self, each.name) < float("inf"):
                raise SettingError(f"the weight of the loss {each.name} must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRanks:
    """Ranks of the adapters of a run that leaves most weights frozen; the release's, twice the paper's."""

    vae: int = 64
    """Of the autoencoder's decoder."""
    DiT: int = 128
    """Of the transformer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of a run."""

    sources: tuple[Path, ...]
    """Image tars, folders, or images."""
    out: Path
    """Folder of the checkpoint and the log."""
    num_steps: int = 10_000
    """Total, those of earlier runs counted in."""
    batch_size: int = 16
    crop_size: int = 192
    """Pixels a side; a multiple of the model's padding multiple."""
    synthetic_share: float = 0.1
    """Of the crops, those that are drawn: flat colours, ramps, patterns, text."""
    learning_rate: float = 6e-4
    warmup_steps: int = 200
    cooldown_share: float = 0.3
    """Part of `num_steps`, at the end, over which the learning rate falls to zero."""
    rate_weights: tuple[float, ...] | None = None
    """Weight of bits per pixel of each quality, from the lowest, against the distortion; None: as many of
    `RATE_WEIGHTS`, from the last, as the model has qualities."""
    pruned_rate_weights: tuple[float, ...] | None = None
    """Those of the second stage; None: there is none."""
    pruning_step: int | None = None
    """First step of the second stage."""
    loss: LossWeights = LossWeights()
    lpips_file: Path | None = None
    """Weights of LPIPS, where it has a weight in the loss."""
    dists_file: Path | None = None
    distillation_margin: float = 0.5
    """Between the decoded latent and the encoder's, cosines above 1 - margin are not improved."""
    guidance_until: float = 0.3
    """Share of `num_steps` after which guidance ends."""
    adversarial_from: float = 0.3
    """Share of `num_steps` after which the discriminator joins."""
    adversarial_learning_rate: float = 1e-4
    """Of the discriminator, at all steps."""
    quantile_learning_rate: float = 1e-2
    """Of the quantiles of z, at all steps."""
    adapters: AdapterRanks | None = None
    """Train adapters, the latent codec and the condition, and leave the rest frozen; None: train all."""
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 50
    """Steps."""
    save_every: int = 250
    """Steps."""
    sample_every: int = 500
    """Steps between two sheets of sample reconstructions; 0: none."""
    seed: int = 0
    device: str = "cpu"
    bf16: bool = True
    """Run the autoencoder and the transformer in bfloat16; the entropy model stays in float32."""

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.crop_size, self.log_every, self.save_every) < 1:
            raise SettingError("steps, batch size and crop size must be at least 1")
        if self.loss.ms_ssim and self.crop_size <= 160:
            raise SettingError("MS-SSIM needs crops of more than 160 pixels a side")
        for name in ("cooldown_share", "synthetic_share", "guidance_until", "adversarial_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"{name} is a share: between 0 and 1")
        if (self.pruned_rate_weights is None) != (self.pruning_step is None):
            raise SettingError("a second stage needs both its rate weights and its first step")

    def rate_weights_of(self, num_qualities: int, step: int) -> tuple[float, ...]:
        """Of each quality, from the lowest, at a step.

        Raises:
            SettingError: there are more or fewer of them than qualities.
        """
        weights = self.rate_weights or RATE_WEIGHTS[-num_qualities:]
        if self.pruned_rate_weights is not None and self.pruning_step is not None and step >= self.pruning_step:
            weights = self.pruned_rate_weights
        if len(weights) != num_qualities:
            raise SettingError(f"the model codes at {num_qualities} rates: give each a rate weight")
        return weights
