"""Train a DiT-IC from photos: Muon and AdamW, gradient clipping, an exponential moving average, and a checkpoint to go on from.

The learning rate warms up, stays constant, and falls linearly to zero over the last part of the steps: a run stopped early
is resumed with fewer steps and cools down at once, a run that may go on is resumed with more.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC, Output
from pipeline.errors import CheckpointError, SettingError
from pipeline.training.data import load_photos, sample_crops
from pipeline.training.losses import rate_distortion
from pipeline.training.optimizer import MuonAdamW
from pipeline.training.warm_start import suits, warm_start

log = logging.getLogger(__name__)
CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"
RATE_WEIGHTS = (0.2, 0.09, 0.042, 0.02)


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
    learning_rate: float = 6e-4
    warmup_steps: int = 200
    cooldown_share: float = 0.3
    """Part of `num_steps`, at the end, over which the learning rate falls to zero."""
    rate_weights: tuple[float, ...] | None = None
    """Weight of bits per pixel of each quality, from the lowest, against the distortion; None: as many of
    `RATE_WEIGHTS`, from the last, as the model has qualities."""
    ms_ssim_weight: float = 0.08
    """Weight of 1 - MS-SSIM against the mean squared error on [-1, 1]."""
    alignment_weight: float = 0.0
    """Weight of the self-distillation term: what is decoded should be the latent that the encoder made."""
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 50
    """Steps."""
    save_every: int = 250
    """Steps."""
    seed: int = 0
    device: str = "cpu"
    bf16: bool = True
    """Run the autoencoder and the transformer in bfloat16; the entropy model stays in float32."""

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.crop_size, self.log_every, self.save_every) < 1:
            raise SettingError("steps, batch size and crop size must be at least 1")
        if self.ms_ssim_weight and self.crop_size <= 160:
            raise SettingError("MS-SSIM needs crops of more than 160 pixels a side")
        if not 0 <= self.cooldown_share <= 1:
            raise SettingError("cooldown_share is a share: between 0 and 1")


def train(config: TrainConfig, model_config: DiTICConfig, report: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Train until `config.num_steps`, going on from the checkpoint in `config.out` if there is one.

    Args:
        report: called with each line of the log.

    Returns:
        Path of the checkpoint.

    Raises:
        SettingError: a source is missing, or the crop size does not suit the model.
        CheckpointError: the checkpoint there is of another model.
    """
    if config.crop_size % model_config.multiple:
        raise SettingError(f"the crop size must be a multiple of {model_config.multiple} for {model_config.name}")
    num_qualities = model_config.latent.num_qualities
    config = replace(config, rate_weights=config.rate_weights or RATE_WEIGHTS[-num_qualities:])
    if len(config.rate_weights or ()) != num_qualities:
        raise SettingError(f"{model_config.name} codes at {num_qualities} rates: give each a rate weight")
    config.out.mkdir(parents=True, exist_ok=True)
    run = _Run(config, model_config)
    photos = load_photos(config.sources, min_side=config.crop_size)
    log.info("training on %d photos from step %d to %d", len(photos), run.step, config.num_steps)
    started, first_step = time.monotonic(), run.step
    sums = np.zeros(3)
    while run.step < config.num_steps:
        # Seeded by the step: a resumed run draws what an unbroken one would have drawn.
        rng = np.random.default_rng((config.seed, run.step))
        torch.manual_seed(config.seed * 1_000_003 + run.step)
        if run.step == 0 and suits(model_config):
            many = [sample_crops(photos, num_crops=config.batch_size, size=config.crop_size, rng=rng) for _ in range(16)]
            log.info("starting as a transform codec with steps of %.3f", run.start_as_transform_codec(many))
        crops = sample_crops(photos, num_crops=config.batch_size, size=config.crop_size, rng=rng)
        sums += run.update(torch.from_numpy(crops))
        if run.step % config.log_every == 0:
            mean = sums / config.log_every
            sums[:] = 0
            elapsed_s = time.monotonic() - started
            line = {
                "step": run.step,
                "loss": round(float(mean[0]), 5),
                "bpp": round(float(mean[1]), 4),
                "psnr": round(float(mean[2]), 3),
                "learning_rate": run.learning_rate(),
                "steps_per_s": round((run.step - first_step) / elapsed_s, 3),
            }
            with (config.out / LOG_NAME).open("a") as handle:
                handle.write(json.dumps(line) + "\n")
            report(line)
        if run.step % config.save_every == 0 or run.step == config.num_steps:
            run.save()
    return config.out / CHECKPOINT_NAME


def load_trained(checkpoint: Path, *, averaged: bool = True) -> tuple[DiTIC, dict[str, Any]]:
    """The model of a training checkpoint, in eval mode, and what is known of its run.

    Args:
        averaged: the moving average of the weights, which is better while the learning rate is high; once it has fallen to
            zero, the last weights are better.

    Raises:
        CheckpointError: the file is no training checkpoint.
    """
    state = _read(checkpoint)
    model = DiTIC(DiTICConfig.from_dict(state["model_config"]))
    model.load_state_dict(state["ema" if averaged else "model"])
    return model.eval(), {"step": state["step"], **state["run"]}


def forward(model: DiTIC, x: Tensor, quality: Tensor, *, bf16: bool) -> Output:
    """Training pass with the float networks in bfloat16 and the entropy model in float32."""
    device = x.device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        lat, aux = model.analyse(x)
    coded = model.codec(lat.float(), None if aux is None else aux.float(), quality)
    gain = model.codec.gain(quality)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        x0 = model.denoise(*model.steer(coded.y_hat, coded.scales, gain))
        x_hat = model.render(x0)
    return Output(x_hat=x_hat.float(), lat=lat.float(), x0=x0.float(), coded=coded)


class _Run:
    """Model, optimizer and average, with the step they are at."""

    def __init__(self, config: TrainConfig, model_config: DiTICConfig) -> None:
        self.config, self.model_config = config, model_config
        self.step = 0
        self.rate_weights = torch.tensor(config.rate_weights or RATE_WEIGHTS, device=config.device)
        torch.manual_seed(config.seed)
        self.model = DiTIC(model_config).to(config.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self.optimizer = MuonAdamW(self.model, learning_rate=config.learning_rate)
        path = config.out / CHECKPOINT_NAME
        if path.exists():
            self._load(path)

    def update(self, crops: Tensor) -> np.ndarray:
        """One optimizer step over uint8 crops; returns loss, bits per pixel, PSNR in dB."""
        x = self._normalised(crops)
        c = self.config
        quality = torch.randint(len(self.rate_weights), (len(x),)).to(c.device)
        output = forward(self.model, x, quality, bf16=c.bf16)
        loss = rate_distortion(
            x, output, rate_weights=self.rate_weights[quality],
            alignment_weight=c.alignment_weight, ms_ssim_weight=c.ms_ssim_weight,
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise SettingError(f"training diverged at step {self.step}: lower the learning rate and resume")
        self.optimizer.step(learning_rate=self.learning_rate())
        self.average.update_parameters(self.model)
        self.step += 1
        return np.array([loss.total.item(), loss.bpp.item(), loss.psnr])

    def start_as_transform_codec(self, batches: Sequence[np.ndarray]) -> float:
        """Make the model a transform codec of crops like these; the average begins anew. Returns the quantisation step."""
        xs = [self._normalised(torch.from_numpy(crops)) for crops in batches]
        step = warm_start(self.model, xs, self.rate_weights.tolist())
        self.average.module.load_state_dict(self.model.state_dict())
        return step

    def learning_rate(self) -> float:
        """Rate of the next step."""
        c = self.config
        cooldown_steps = max(1, round(c.cooldown_share * c.num_steps))
        share = min(1.0, (self.step + 1) / c.warmup_steps, (c.num_steps - self.step) / cooldown_steps)
        return c.learning_rate * max(0.0, share)

    def _normalised(self, crops: Tensor) -> Tensor:
        return crops.to(self.config.device).float().div_(127.5).sub_(1).to(memory_format=torch.channels_last)

    def save(self) -> None:
        state = {
            "model_config": self.model_config.to_dict(),
            "run": {k: v for k, v in asdict(self.config).items() if isinstance(v, int | float | str) or k == "rate_weights"},
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.average.module.state_dict(),
            "num_averaged": self.average.n_averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.config.out / CHECKPOINT_NAME
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def _load(self, path: Path) -> None:
        state = _read(path)
        if DiTICConfig.from_dict(state["model_config"]) != self.model_config:
            raise CheckpointError(f"{path} is of another model; name another --out folder")
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["ema"])
        self.average.n_averaged.copy_(state["num_averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert {"model_config", "run", "step", "model", "ema", "optimizer"} <= state.keys()
        return state
    except Exception as error:
        raise CheckpointError(f"{path} is not a training checkpoint of photoark: {error}") from error
