"""Full size: low-rank adapters beside frozen weights, and what trains with them.

    vae.encoder, aux_codec   frozen                    codec, prompter   trained
    vae.decoder, DiT         frozen, with adapters: x W + x A B, A of rank r, B zero at first (Hu et al., LoRA, 2021)

Which layers carry adapters is the release's choice (`state_dict_adapter.ADAPTED`), and so are the ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.external_lora import LoraConfig, inject_adapter_in_model
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.state_dict_adapter import (
    ADAPTED,
    fold_adapters,
    from_base,
    from_merged,
    is_lora,
    joined,
    read_tensors,
)
from pipeline.errors import SettingError
from pipeline.training.config import AdapterRanks
from pipeline.training.weight_source import WeightSource

_TRAINED = ("codec.", "prompter.")


def load_base(source: WeightSource, config: DiTICConfig, *, file: str | None = None, elic: WeightSource | None = None) -> DiTIC:
    """What adapters are trained on.

    Args:
        source: a merged checkpoint of the release, which is trained on from where it is; or a folder in diffusers' layout,
            `transformer/` and `vae/`, whose latent codec and condition begin anew.
        file: which file of `source`, if it holds several checkpoints.
        elic: ELIC's weights, which a folder in diffusers' layout does not hold.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message names it.
        SettingError: a source does not hold what it should.
        StorageError: a repository cannot be reached.
    """
    if not any(name.startswith("transformer/") for name in source.names):
        contents = read_tensors(source.checkpoint(file))
        if is_lora(contents):
            raise SettingError(
                f"{source.location} holds adapters: import it first, or name the weights that they were trained on"
            )
        return from_merged(contents, config).model
    if elic is None:
        raise SettingError(f"{source.location} lacks the auxiliary encoder: name ELIC's weights with --elic")
    vae, transformer = (joined(map(read_tensors, source.component(name))) for name in ("vae", "transformer"))
    return from_base(config, vae=vae, transformer=transformer, elic=read_tensors(elic.checkpoint()))


def add_adapters(model: DiTIC, ranks: AdapterRanks) -> None:
    """Put adapters beside the weights of `model`, in place; afterwards only what is to train takes gradients."""
    for part, rank in (("vae", ranks.vae), ("DiT", ranks.DiT)):
        config = LoraConfig(r=rank, lora_alpha=rank, bias="none", init_lora_weights="gaussian", target_modules=ADAPTED[part])
        inject_adapter_in_model(config, model.get_submodule(part))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(_TRAINED) or ".lora_" in name)


def merge(model: DiTIC) -> DiTIC:
    """`model` with its adapters added to the weights beside them, in place."""
    for part in ("vae", "DiT"):
        fold_adapters(model.get_submodule(part))
    return model


def share_frozen(average: nn.Module, model: nn.Module) -> None:
    """Let the average hold the frozen weights of `model` themselves, not a copy: in memory, and in the checkpoint."""
    for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
        if not theirs.requires_grad:
            mine.data = theirs.data


def recompute(model: DiTIC) -> None:
    """Keep of the decoder and the transformer only what goes into each block, and compute the rest anew on the way back."""
    model.DiT.enable_gradient_checkpointing()
    for stage in model.vae.decoder.up_blocks:
        for block in stage.children():
            block.forward = _recomputed(block.forward)


def _recomputed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(*inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return run(*inputs)
        return checkpoint(run, *inputs, use_reentrant=False)

    return forward
