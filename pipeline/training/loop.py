"""Train a DiT-IC from photos: Muon and AdamW, gradient clipping, an exponential moving average, and a checkpoint to go on from.

The learning rate warms up, stays constant, and falls linearly to zero over the last part of the steps: a run stopped early
is resumed with fewer steps and cools down at once, a run that may go on is resumed with more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC, Output
from pipeline.errors import CheckpointError, SettingError
from pipeline.training import lora
from pipeline.training.adversarial import Adversary
from pipeline.training.config import AdapterRanks, TrainConfig
from pipeline.training.crops import Crops, CropSource
from pipeline.training.data import load_with_texts
from pipeline.training.guidance import Guide
from pipeline.training.losses import Loss, Objective
from pipeline.training.optimizer import MuonAdamW
from pipeline.training.record import Record, reconstructions
from pipeline.training.warm_start import suits, warm_start

log = logging.getLogger(__name__)
CHECKPOINT_NAME = "checkpoint.pt"
NUM_SAMPLES = 4
"""Crops on a sheet of reconstructions."""


def train(
    config: TrainConfig,
    model_config: DiTICConfig,
    report: Callable[[dict[str, Any]], None] = lambda _: None,
    *,
    base: Callable[[], DiTIC] | None = None,
) -> Path:
    """Train until `config.num_steps`, going on from the checkpoint in `config.out` if there is one.

    Args:
        report: called with each line of the log.
        base: loads the weights that adapters stand beside; a run that is resumed has them in its checkpoint.

    Returns:
        Path of the checkpoint.

    Raises:
        SettingError: a source is missing, or the crop size does not suit the model.
        CheckpointError: the checkpoint there is of another model.
    """
    if config.crop_size % model_config.multiple:
        raise SettingError(f"the crop size must be a multiple of {model_config.multiple} for {model_config.name}")
    for step in (0, config.num_steps):
        config.rate_weights_of(model_config.latent.num_qualities, step)
    config.out.mkdir(parents=True, exist_ok=True)
    photos = load_with_texts(config.sources, min_side=config.crop_size)
    run = _Run(config, model_config, base, photos.texts)
    source = CropSource(photos.pixels, device=config.device)
    log.info("training on %d photos from step %d to %d", len(photos.pixels), run.step, config.num_steps)
    size = config.crop_size
    samples = source.draw(num_crops=NUM_SAMPLES, size=size, rng=np.random.default_rng(config.seed)).pixels
    started, first_step = time.monotonic(), run.step
    losses: list[Loss] = []
    with closing(Record(config.out, first_step=run.step)) as record:
        while run.step < config.num_steps:
            # Seeded by the step: a resumed run draws what an unbroken one would have drawn.
            rng = np.random.default_rng((config.seed, run.step))
            torch.manual_seed(config.seed * 1_000_003 + run.step)
            draw = partial(source.draw, num_crops=config.batch_size, size=size, rng=rng, synthetic_share=config.synthetic_share)
            if run.step == 0 and suits(model_config):
                many = [draw().pixels for _ in range(16)]
                log.info("starting as a transform codec with steps of %.3f", run.start_as_transform_codec(many))
            losses.append(run.update(draw()))
            if run.step % config.log_every == 0:
                line = {
                    "step": run.step,
                    **_means(losses),
                    "learning_rate": run.learning_rate(),
                    "steps_per_s": round((run.step - first_step) / (time.monotonic() - started), 3),
                }
                losses.clear()
                record.line(line)
                report(line)
            if config.sample_every and run.step % config.sample_every == 0:
                record.samples(run.step, run.reconstructions(samples))
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
    ranks = state["run"].get("adapters")
    if ranks is not None:
        lora.add_adapters(model, AdapterRanks(**ranks))
    model.load_state_dict(state["ema" if averaged else "model"])
    if ranks is not None:
        lora.merge(model)
    return model.eval(), {"step": state["step"], **state["run"]}


def forward(model: DiTIC, x: Tensor, quality: Tensor, *, bf16: bool) -> Output:
    """Training pass with the float networks in bfloat16 and the entropy model in float32."""
    device = x.device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        lat, aux = model.analyse(x)
    coded = model.codec(lat.float(), None if aux is None else aux.float(), quality)
    gain = model.codec.gain(quality)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        heads, condition = model.steer(coded.y_hat, coded.scales, gain)
        x0 = model.denoise(heads, condition)
        x_hat = model.render(x0)
    return Output(x_hat=x_hat.float(), lat=lat.float(), x0=x0.float(), condition=condition.float(), coded=coded)


class _Run:
    """Model, optimizer and average, with the step they are at."""

    def __init__(
        self,
        config: TrainConfig,
        model_config: DiTICConfig,
        base: Callable[[], DiTIC] | None,
        texts: NDArray[np.float32] | None,
    ) -> None:
        path = config.out / CHECKPOINT_NAME
        state = _checked(path, config, model_config) if path.exists() else None
        self.config = config
        self.step = 0
        torch.manual_seed(config.seed)
        if state is not None:
            model = DiTIC(DiTICConfig.from_dict(state["model_config"]))
        elif config.adapters is None:
            model = DiTIC(model_config)
        elif base is not None:
            model = base()
        else:
            raise SettingError("adapters are trained beside weights: name them with --base")
        # That of a base may differ from what was asked for in the width of its CDF tables.
        self.model_config = model.config
        if config.adapters is not None:
            lora.add_adapters(model, config.adapters)
        self.model = model.to(config.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        if config.adapters is not None:
            lora.share_frozen(self.average.module, self.model)
            lora.recompute(self.model)
        self.optimizer = MuonAdamW(self.model, learning_rate=config.learning_rate)
        self.objective = Objective(config).to(config.device)
        self.adversary = self.guide = None
        if config.loss.adversarial:
            self.adversary = Adversary(learning_rate=config.adversarial_learning_rate, device=config.device)
            # Frozen beside adapters, it is still asked for its gradient.
            self._last_weights.requires_grad_()
        if config.loss.guidance and texts is None:
            log.warning("no text embeddings lie beside the photos: guidance is off")
        elif config.loss.guidance and texts is not None:
            channels = self.model_config.condition.channels
            self.guide = Guide(channels, texts.shape[1], learning_rate=config.learning_rate, device=config.device)
            # The last row is that of drawn pictures, which have the index -1.
            self._texts = torch.from_numpy(np.vstack([texts, np.zeros_like(texts[:1])])).to(config.device)
        if state is not None:
            self._load(state)

    def update(self, crops: Crops) -> Loss:
        """One optimizer step."""
        x = self._normalised(crops.pixels)
        c = self.config
        rate_weights = torch.tensor(self.rate_weights(), device=c.device)
        quality = torch.randint(len(rate_weights), (len(x),)).to(c.device)
        output = forward(self.model, x, quality, bf16=c.bf16)
        loss = self.objective(x, output, rate_weights[quality])
        total, terms = loss.total, dict(loss.terms)
        guide = self.guide if self.step < c.guidance_until * c.num_steps else None
        adversary = self.adversary if self.step >= c.adversarial_from * c.num_steps else None
        if guide is not None:
            contrast = guide.term(output.condition, self._texts[crops.photos])
            total, terms["guidance"] = total + c.loss.guidance * contrast, contrast.detach()
        if adversary is not None:
            pull, terms["adversarial"] = adversary.term(output.x_hat, loss.total, self._last_weights)
            total = total + c.loss.adversarial * pull
        self.optimizer.zero_grad()
        self._last_weights.grad = None
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, c.max_grad_norm)
        if not torch.isfinite(norm):
            raise SettingError(f"training diverged at step {self.step}: lower the learning rate and resume")
        self.optimizer.step(learning_rate=self.learning_rate())
        if guide is not None:
            guide.learn()
        if adversary is not None:
            terms["discriminator"] = adversary.learn(x, output.x_hat)
        self.average.update_parameters(self.model)
        self.step += 1
        return replace(loss, total=total.detach(), terms=terms)

    def reconstructions(self, crops: Tensor) -> NDArray[np.uint8]:
        """A sheet of these uint8 crops and what the model makes of them."""
        return reconstructions(self.model, self._normalised(crops), bf16=self.config.bf16)

    def start_as_transform_codec(self, batches: Sequence[Tensor]) -> float:
        """Make the model a transform codec of crops like these; the average begins anew. Returns the quantisation step."""
        xs = [self._normalised(crops) for crops in batches]
        step = warm_start(self.model, xs, self.rate_weights())
        self.average.module.load_state_dict(self.model.state_dict())
        return step

    def rate_weights(self) -> tuple[float, ...]:
        """Of each quality, in the next step."""
        return self.config.rate_weights_of(self.model_config.latent.num_qualities, self.step)

    def learning_rate(self) -> float:
        """Rate of the next step."""
        c = self.config
        cooldown_steps = max(1, round(c.cooldown_share * c.num_steps))
        share = min(1.0, (self.step + 1) / c.warmup_steps, (c.num_steps - self.step) / cooldown_steps)
        return c.learning_rate * max(0.0, share)

    def _normalised(self, crops: Tensor) -> Tensor:
        return crops.to(self.config.device).float().div_(127.5).sub_(1).to(memory_format=torch.channels_last)

    @property
    def _last_weights(self) -> Tensor:
        """Of the decoder's last convolution."""
        return next(p for name, p in self.model.vae.decoder.conv_out.named_parameters() if name.endswith("weight"))

    def save(self) -> None:
        state = {
            "model_config": self.model_config.to_dict(),
            "run": {k: v for k, v in asdict(self.config).items() if _is_plain(v)} | {"rate_weights": self.rate_weights()},
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.average.module.state_dict(),
            "num_averaged": self.average.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            **{name: part.state_dict() for name, part in self._helpers()},
        }
        path = self.config.out / CHECKPOINT_NAME
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def _load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.module.load_state_dict(state["ema"])
        self.average.n_averaged.copy_(state["num_averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        for name, part in self._helpers():
            # One that was not there when the checkpoint was made begins anew.
            if name in state:
                part.load_state_dict(state[name])

    def _helpers(self) -> list[tuple[str, Adversary | Guide]]:
        return [(name, part) for name, part in (("adversary", self.adversary), ("guide", self.guide)) if part is not None]


def _means(losses: Sequence[Loss]) -> dict[str, float]:
    """What a line of the log says about the steps since the last; a term that came or went counts while it was there."""

    def mean(values: Iterable[Tensor]) -> float:
        return float(torch.stack(list(values)).double().mean())

    names = list(dict.fromkeys(name for loss in losses for name in loss.terms))
    return {
        "loss": round(mean(x.total for x in losses), 5),
        "bpp": round(mean(x.bpp for x in losses), 4),
        "psnr": round(mean(x.psnr() for x in losses), 3),
        **{name: round(mean(x.terms[name] for x in losses if name in x.terms), 6) for name in names},
    }


def _is_plain(value: object) -> bool:
    """Neither a path nor a tuple of them: those are of this machine."""
    return isinstance(value, int | float | str | dict)


def _checked(path: Path, config: TrainConfig, model_config: DiTICConfig) -> dict[str, Any]:
    """The checkpoint at `path`, if it is of the model and the kind of run that was asked for."""
    state = _read(path)
    saved = DiTICConfig.from_dict(state["model_config"])
    adapters = None if config.adapters is None else asdict(config.adapters)
    same = saved == model_config if adapters is None else saved.name == model_config.name
    if not same or state["run"].get("adapters") != adapters:
        raise CheckpointError(f"{path} is of another model; name another --out folder")
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        assert {"model_config", "run", "step", "model", "ema", "optimizer"} <= state.keys()
        return state
    except Exception as error:
        raise CheckpointError(f"{path} is not a training checkpoint of photoark: {error}") from error
