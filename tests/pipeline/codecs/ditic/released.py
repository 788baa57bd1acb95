"""Checkpoints laid out as the official release lays them out, of the smallest shape and with random weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC

CONFIG = replace(DiTICConfig.tiny(), name="ditic")
"""Named as the published model is, so that the registry takes it."""
RANK = 2
DECODER_LAYER = re.compile(r"decoder\..*(conv1|conv2|conv_in|conv_inverted|conv_point|to_k|to_q|to_v)\.weight")
TRANSFORMER_LAYER = re.compile(r".*(to_q|to_k|to_v|to_out\.0|conv_inverted|conv_point|proj_out)\.weight")


def merged_state(seed: int = 5) -> dict[str, Tensor]:
    """A merged checkpoint, CDF tables included, and one key of the kind that is to be ignored."""
    torch.manual_seed(seed)
    model = DiTIC(CONFIG)
    with torch.no_grad():
        model.codec.g_a.shrink.weight.mul_(5)
        model.codec.entropy_bottleneck.update(force=True)
        model.codec.gaussian_conditional.update()
    return {**model.state_dict(), "loss.logit_scale": torch.zeros(1)}


class LoraRelease:
    """A LoRA checkpoint with its base, and what it must become."""

    def __init__(self, *, peft_names: bool, adapter_name: bool, base_layers: bool, tables: bool = True) -> None:
        """Choose among the layouts.

        Args:
            peft_names: with `base_model.model.` before every name of an adapted part.
            adapter_name: with `.default` in the names of adapters.
            base_layers: the adapted parts hold all their weights, under `.base_layer.` where an adapter sits.
            tables: with CDF tables; without, they are empty, as in a checkpoint of training.
        """
        state = merged_state()
        self.merged = {name: value.clone() for name, value in state.items() if not name.startswith("loss.")}
        self.vae, self.transformer, self.elic = (_under(state, f"{part}.") for part in ("vae", "DiT", "aux_codec"))
        parts = {"codec": _under(state, "codec."), "prompter": _under(state, "prompter.")}
        if not tables:
            for name in ("_quantized_cdf", "_offset", "_cdf_length"):
                for prior in ("entropy_bottleneck", "gaussian_conditional"):
                    parts["codec"][f"{prior}.{name}"] = torch.empty(0, dtype=torch.int32)
        for part, base, pattern in (("vae", self.vae, DECODER_LAYER), ("DiT", self.transformer, TRANSFORMER_LAYER)):
            parts[part] = self._adapters(part, base, pattern, "default." if adapter_name else "")
            if base_layers:
                parts[part] |= {_base_name(name) if pattern.fullmatch(name) else name: v for name, v in base.items()}
            if peft_names:
                parts[part] = {f"base_model.model.{name}": value for name, value in parts[part].items()}
        self.averaged = {f"state_dict_{name}": tensors for name, tensors in parts.items()}

    def write_base(self, folder: Path) -> Path:
        """SANA's folder in diffusers' layout, with a half-precision double of one file that must not be taken."""
        for name, tensors in (("vae", self.vae), ("transformer", self.transformer)):
            (folder / name).mkdir(parents=True)
            save_file({n: v.contiguous() for n, v in tensors.items()}, folder / name / "model.safetensors")
        save_file({n: v.half() for n, v in self.vae.items()}, folder / "vae" / "model.fp16.safetensors")
        (folder / "LICENSE").write_text("Terms of the base.\n")
        return folder

    def _adapters(self, part: str, base: dict[str, Tensor], pattern: re.Pattern[str], infix: str) -> dict[str, Tensor]:
        adapters = {}
        for name, weight in base.items():
            if not pattern.fullmatch(name):
                continue
            layer = name.removesuffix(".weight")
            down = 0.1 * torch.randn(RANK, *weight.shape[1:])
            up = 0.1 * torch.randn(weight.shape[0], RANK, *(1 for _ in weight.shape[2:]))
            adapters[f"{layer}.lora_A.{infix}weight"], adapters[f"{layer}.lora_B.{infix}weight"] = down, up
            self.merged[f"{part}.{name}"] += (up.flatten(1) @ down.flatten(1)).view_as(weight)
        assert adapters
        return adapters


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)}


def _base_name(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    return f"{layer}.base_layer.{kind}"
