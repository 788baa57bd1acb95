"""Model, optimizers and moving average, with the step that they are at: one step, and to a file and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC, Output
from pipeline.errors import SettingError
from pipeline.training import lora
from pipeline.training.adversarial import Adversary
from pipeline.training.checkpoint import CHECKPOINT_NAME, read_checked
from pipeline.training.config import TrainConfig
from pipeline.training.crops import Crops
from pipeline.training.guidance import Guide
from pipeline.training.losses import Loss, Objective
from pipeline.training.optimizer import MuonAdamW
from pipeline.training.parallel import Team
from pipeline.training.quantiles import Quantiles
from pipeline.training.record import reconstructions
from pipeline.training.warm_start import warm_start

log = logging.getLogger(__name__)


class _Helper(Protocol):
    """What trains beside the model and is kept with it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Run:
    """Model, optimizer and average, with the step they are at."""

    def __init__(
        self,
        config: TrainConfig,
        model_config: DiTICConfig,
        base: Callable[[], DiTIC] | None,
        texts: NDArray[np.float32] | None,
        team: Team,
    ) -> None:
        """Begin, or go on from the checkpoint in `config.out`; arguments as those of `loop.train_on`."""
        path = config.out / CHECKPOINT_NAME
        state = read_checked(path, config, model_config) if path.exists() else None
        self.config, self.team = config, team
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
        self.quantiles = None
        if config.loss.auxiliary:
            self.quantiles = Quantiles(self.model, learning_rate=config.quantile_learning_rate)
        if state is not None:
            self._load(state)
        team.check_same_step(self.step)
        team.align(self.model)

    def update(self, crops: Crops) -> Loss:
        """One optimizer step, with this worker's share of the batch.

        Raises:
            SettingError: training has diverged; on every worker.
        """
        x = self._normalised(crops.pixels)
        c = self.config
        rate_weights = torch.tensor(self.rate_weights(), device=c.device)
        quality = self._draw_qualities(len(rate_weights)).to(c.device)
        output = forward(self.model, x, quality, bf16=c.bf16)
        loss = self.objective(x, output, quality, rate_weights)
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
        self.team.average_gradients(self.optimizer.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, c.max_grad_norm)
        if not torch.isfinite(norm):
            raise SettingError(f"training diverged at step {self.step}: lower the learning rate and resume")
        self.optimizer.step(learning_rate=self.learning_rate())
        if guide is not None:
            guide.learn(self.team)
        if adversary is not None:
            terms["discriminator"] = adversary.learn(x, output.x_hat, self.team)
        if self.quantiles is not None:
            terms["auxiliary"] = self.quantiles.learn()
        self.average.update_parameters(self.model)
        self.step += 1
        return replace(loss, total=total.detach(), terms=terms)

    def reconstructions(self, crops: Tensor) -> NDArray[np.uint8]:
        """A sheet of these uint8 crops and what the model makes of them."""
        return reconstructions(self.model, self._normalised(crops), bf16=self.config.bf16)

    def start_as_transform_codec(self, batches: Sequence[Tensor]) -> float:
        """Make the model a transform codec of crops like these; the average begins anew. Returns the quantisation step.

        Args:
            batches: B x 3 x H x W, uint8; the same on every worker.
        """
        xs = [self._normalised(crops) for crops in batches]
        step = warm_start(self.model, xs, self.rate_weights())
        self.team.align(self.model)
        self.average.module.load_state_dict(self.model.state_dict())
        return step

    def _draw_qualities(self, num_qualities: int) -> Tensor:
        """Of this worker's crops. All workers draw those of the whole batch, and then go on with noise of their own."""
        c, team = self.config, self.team
        torch.manual_seed(c.seed * 1_000_003 + self.step)
        qualities = torch.randint(num_qualities, (c.batch_size,))[team.share(c.batch_size)]
        if team.size > 1:
            torch.manual_seed(int(np.random.SeedSequence((c.seed, self.step, 1 + team.rank)).generate_state(1, np.uint64)[0]))
        return qualities

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
        """Write the checkpoint, in one go: a run that is broken off leaves the last whole one."""
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

    def _helpers(self) -> Iterator[tuple[str, _Helper]]:
        helpers = {"adversary": self.adversary, "guide": self.guide, "quantiles": self.quantiles}
        return ((name, helper) for name, helper in helpers.items() if helper is not None)


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


def _is_plain(value: object) -> bool:
    """Neither a path nor a tuple of them: those are of this machine."""
    return isinstance(value, int | float | str | dict)
