"""Checkpoints laid out as the official release lays them out, with random weights: of the reference, not of our own model."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.codecs.ditic.config import (
    AutoencoderConfig,
    AuxEncoderConfig,
    ConditionConfig,
    DiTICConfig,
    LatentCodecConfig,
    TransformerConfig,
)
from tests.pipeline.codecs.ditic.reference import TINY, random_checkpoint

CONFIG = DiTICConfig(
    name="ditic",
    autoencoder=AutoencoderConfig(
        block_channels=TINY.block_channels,
        encoder_layers=TINY.encoder_layers,
        decoder_layers=TINY.decoder_layers,
        latent_channels=TINY.latent,
        attention_head_dim=TINY.attention_head,
    ),
    aux_encoder=AuxEncoderConfig(width=TINY.elic_width, out_channels=TINY.elic_out),
    latent=LatentCodecConfig(
        y_channels=TINY.y,
        z_channels=TINY.z,
        lat_channels=TINY.from_latent,
        aux_channels=TINY.from_elic,
        context_channels=TINY.context,
        scale_channels=TINY.logvar_width,
    ),
    condition=ConditionConfig(
        num_latent_tokens=TINY.pooled_tokens, num_learned_tokens=TINY.learned_tokens, channels=TINY.caption
    ),
    transformer=TransformerConfig(
        num_layers=TINY.layers,
        num_heads=TINY.heads,
        head_dim=TINY.head,
        num_cross_heads=TINY.cross_heads,
        cross_head_dim=TINY.cross_head,
    ),
)
"""The reference's `TINY`: the published model but for its widths, and named as it is, so that the registry takes it."""
RANK = 2
DECODER_LAYER = re.compile(r"decoder\..*(conv1|conv2|conv_in|conv_inverted|conv_point|to_k|to_q|to_v)\.weight")
TRANSFORMER_LAYER = re.compile(r".*(to_q|to_k|to_v|to_out\.0|conv_inverted|conv_point|proj_out)\.weight")


def merged_state(seed: int = 5) -> dict[str, Tensor]:
    """A merged checkpoint, CDF tables included, and one key of the kind that is to be ignored."""
    return {**random_checkpoint(TINY, seed), "loss.logit_scale": torch.zeros(1)}


class LoraRelease:
    """A LoRA checkpoint with its base, and what it must become."""

    def __init__(self, *, peft_names: bool, adapter_name: bool, base_layers: bool, tables: str = "stale") -> None:
        """Choose among the layouts.

        Args:
            peft_names: with `base_model.model.` before every name of an adapted part.
            adapter_name: with `.default` in the names of adapters.
            base_layers: the adapted parts hold all their weights, under `.base_layer.` where an adapter sits.
            tables: `empty`, as in the checkpoint of a first run, or `stale`, as old as the last resumption of the run.
        """
        state = merged_state()
        self.merged = {name: value.clone() for name, value in state.items() if not name.startswith("loss.")}
        self.vae, self.transformer, self.elic = (_under(state, f"{part}.") for part in ("vae", "DiT", "aux_codec"))
        parts = {"codec": _under(state, "codec."), "prompter": _under(state, "prompter.")}
        for name, tensor in parts["codec"].items():
            if name.rpartition(".")[2] in ("_quantized_cdf", "_offset", "_cdf_length", "scale_table"):
                parts["codec"][name] = tensor.new_empty(0) if tables == "empty" else 2 * tensor
        for part, base, pattern in (("vae", self.vae, DECODER_LAYER), ("DiT", self.transformer, TRANSFORMER_LAYER)):
            parts[part] = self._adapters(part, base, pattern, "default." if adapter_name else "")
            if base_layers:
                parts[part] |= {_base_name(name) if pattern.fullmatch(name) else name: v for name, v in base.items()}
            if peft_names:
                parts[part] = {f"base_model.model.{name}": value for name, value in parts[part].items()}
        self.weights = {f"state_dict_{name}": tensors for name, tensors in parts.items()}

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
