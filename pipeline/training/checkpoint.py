"""What a run keeps to go on from: one file, written by `run.Run`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.errors import CheckpointError
from pipeline.training import lora
from pipeline.training.config import AdapterRanks, TrainConfig

CHECKPOINT_NAME = "checkpoint.pt"


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


def read_checked(path: Path, config: TrainConfig, model_config: DiTICConfig) -> dict[str, Any]:
    """The checkpoint at `path`.

    Raises:
        CheckpointError: it is none, or of another model or kind of run than was asked for.
    """
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
