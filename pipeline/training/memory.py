"""How much memory a training step takes, from the sizes alone."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.planner import PeakMemory
from pipeline.training.config import TrainConfig
from pipeline.training.lora import add_adapters, recompute, share_frozen
from pipeline.training.losses import Objective
from pipeline.training.optimizer import MuonAdamW


def step_bytes(config: TrainConfig, model_config: DiTICConfig) -> int:
    """Largest sum of the bytes of all tensors during one step: weights, average, optimizer, activations, gradients.

    On the meta device, where tensors have sizes and no content, all in float32: with bfloat16 activations take half. What
    convolutions need as workspace, and what the allocator leaves unused, comes on top.
    """
    with PeakMemory() as memory:
        with torch.device("meta"):
            model = DiTIC(model_config).train().to("meta")
        if config.adapters is not None:
            add_adapters(model, config.adapters)  # meta as the layers they stand beside
        average = AveragedModel(model, device=torch.device("meta"))
        if config.adapters is not None:
            share_frozen(average.module, model)
            recompute(model)
        # It looks at values, which the meta device has not; z is a thousandth of what else there is.
        model.codec.entropy_bottleneck.forward = lambda z: (z, torch.sigmoid(z))
        optimizer = MuonAdamW(model, learning_rate=config.learning_rate)
        x = torch.empty(config.batch_size, 3, config.crop_size, config.crop_size, device="meta")
        quality = torch.zeros(config.batch_size, dtype=torch.int64, device="meta")
        output = model(x, quality)
        Objective(config)(x, output, quality, torch.ones(1, device="meta")).total.backward()
        del output
        optimizer.step(learning_rate=config.learning_rate)
    return memory.peak_bytes
