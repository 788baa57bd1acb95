"""Tensors of the official release -> a float `DiTIC`: names, shapes, and adapters merged into their base.

    merged   one state dict with the names of `DiTIC.state_dict()`, CDF tables included; `loss.*` is left aside

    LoRA     {"model" and "ema": {"state_dict_codec", "state_dict_prompter", "state_dict_vae", "state_dict_DiT"}}

        state_dict_codec ----------------------------------> codec
        state_dict_prompter -------------------------------> prompter
        vae/*.safetensors of the base + state_dict_vae ----> vae         weights + adapters
        transformer/*.safetensors     + state_dict_DiT ----> DiT         weights + adapters
        ELIC's g_a ----------------------------------------> aux_codec

Nothing is loaded that does not fit: a tensor too many, too few or of another shape is an error that names it. Weights are
mapped from their files, not copied, until something changes them.

A merged checkpoint's CDF tables are taken as they are. Those of a LoRA checkpoint are empty, or as old as the last resumption
of its training, so they are computed from its weights, as the release does whenever it loads one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.exact import cdf_tables
from pipeline.codecs.ditic.external_lora import BaseTunerLayer, LoraConfig, inject_adapter_in_model
from pipeline.codecs.ditic.flow import TIMESTEP
from pipeline.codecs.ditic.latent_codec import SCALE_TABLE
from pipeline.codecs.ditic.model import DiTIC
from pipeline.errors import CheckpointError

Tensors = Mapping[str, Tensor]

ADAPTED = {
    "vae": r"decoder\.(.*\.)?(conv1|conv2|conv_in|conv_shortcut|conv_inverted|conv_point|to_k|to_q|to_v|to_out\.0)",
    "DiT": r"(.*\.)?(to_q|to_k|to_v|to_out\.0|conv_inverted|conv_point|proj_out|proj_in)",
}
"""Layers that carry an adapter in a LoRA checkpoint, as peft matches them (in full)."""

_Z_CDF = "codec.entropy_bottleneck._quantized_cdf"
_PRIORS = ("entropy_bottleneck", "gaussian_conditional")
_TABLES = ("_quantized_cdf", "_offset", "_cdf_length")
_EMA_OPTION = {"ema": "--use-ema", "model": "--no-use-ema"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A float model made of released weights."""

    model: DiTIC
    layout: str
    """`merged` or `lora`."""
    weights: str
    """`merged`; of a LoRA checkpoint `model`, as trained, or `ema`, their moving average."""


def read_tensors(path: Path) -> dict[str, Any]:
    """What a safetensors or `torch.save` file holds; tensors stay mapped to the file where its format allows.

    Raises:
        CheckpointError: it cannot be read, holds more than tensors and plain values, or is no dictionary.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # saved in the format before torch 1.6, which cannot be mapped
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as weights: {error}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}, not a dictionary of tensors")
    return contents


def joined(parts: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """One dictionary of the files that share a model's tensors among them.

    Raises:
        CheckpointError: a tensor is in two of them.
    """
    tensors: dict[str, Tensor] = {}
    for part in parts:
        twice = sorted(tensors.keys() & part.keys())
        if twice:
            raise CheckpointError(f"{twice[0]} is in two files of the base")
        tensors |= _only_tensors(part)
    return tensors


def is_lora(contents: Mapping[str, Any]) -> bool:
    """Whether this is a LoRA checkpoint, which needs its base."""
    return any(isinstance(contents.get(name), dict) for name in ("ema", "model"))


def from_merged(contents: Mapping[str, Any], config: DiTICConfig) -> Adapted:
    """The model of a merged checkpoint.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape, or the CDF tables are none.
    """
    tensors = _only_tensors({name: value for name, value in contents.items() if not name.startswith("loss.")})
    if _Z_CDF in tensors and tensors[_Z_CDF].numel() == 0:
        raise CheckpointError(f"the checkpoint's CDF tables are empty ({_Z_CDF}): it was saved before they were made")
    return Adapted(model=_build(tensors, config), layout="merged", weights="merged")


def from_lora(
    contents: Mapping[str, Any],
    config: DiTICConfig,
    *,
    vae: Tensors | None = None,
    transformer: Tensors | None = None,
    elic: Mapping[str, Any] | None = None,
    use_ema: bool = False,
) -> Adapted:
    """The model of a LoRA checkpoint, merged into its base, with tables computed from its weights.

    Args:
        vae: of the base, DC-AE with diffusers' names. Layers that the checkpoint holds itself come before it.
        transformer: of the base, SANA with diffusers' names; likewise.
        elic: ELIC's weights; of a whole model, its `g_a`.
        use_ema: take the moving average of the weights, which training keeps beside them.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape, in the checkpoint or in its base.
    """
    chosen, other = ("ema", "model") if use_ema else ("model", "ema")
    if not isinstance(contents.get(chosen), dict):
        raise CheckpointError(f"the checkpoint holds no `{chosen}` weights; take `{other}` with {_EMA_OPTION[other]}")
    parts = {name: _part(contents[chosen], name) for name in ("codec", "prompter", "vae", "DiT")}
    parts["codec"] |= _empty_tables()
    tensors: dict[str, Tensor] = {"timesteps": torch.full((1,), TIMESTEP, dtype=torch.int64)}
    adapters: dict[str, dict[str, Tensor]] = {}
    for part, base in (("vae", vae), ("DiT", transformer)):
        adapters[part] = {name: value for name, value in parts[part].items() if ".lora_" in name}
        parts[part] = {**(base or {}), **{n: v for n, v in parts[part].items() if ".lora_" not in n}}
    for part, values in (*parts.items(), ("aux_codec", _elic(elic or {}))):
        tensors |= {f"{part}.{name}": value for name, value in values.items()}
    absent = [name for name, base in (("--base", vae), ("--base", transformer), ("--elic", elic)) if base is None]
    hint = f"; a LoRA checkpoint needs what it was trained on: name it with {' and '.join(sorted(set(absent)))}"
    model = _build(tensors, config, hint=hint if absent else "")
    for part in adapters:
        merge_adapters(model.get_submodule(part), adapters[part], ADAPTED[part], prefix=part)
    _compute_tables(model)
    return Adapted(model=model, layout="lora", weights=chosen)


def from_base(config: DiTICConfig, *, vae: Tensors, transformer: Tensors, elic: Mapping[str, Any]) -> DiTIC:
    """What adapters begin on: a base with its auxiliary encoder, and a latent codec and a condition of random weights.

    Args:
        vae: DC-AE with diffusers' names.
        transformer: SANA with diffusers' names.
        elic: ELIC's weights; of a whole model, its `g_a`.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape.
    """
    model = DiTIC(config)
    for part, values in (("vae", vae), ("DiT", transformer), ("aux_codec", _elic(elic))):
        module = model.get_submodule(part)
        module.load_state_dict(_fitted(values, module.state_dict(), where=f"{part}."))
    return model


@torch.no_grad()
def merge_adapters(module: nn.Module, adapters: Tensors, adapted: str, *, prefix: str = "") -> None:
    """Add low-rank adapters to the weights of `module`, in place, through peft.

    Args:
        adapters: `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, of every layer that `adapted` matches.

    Raises:
        CheckpointError: the adapters are not of those layers, shapes, or one rank.
    """
    ranks = sorted({value.shape[0] for name, value in adapters.items() if name.endswith(".lora_A.weight")})
    if len(ranks) != 1:
        raise CheckpointError(f"adapters of {prefix} must have one rank; found {ranks or 'no adapters'}")
    config = LoraConfig(r=ranks[0], lora_alpha=ranks[0], bias="none", target_modules=adapted)
    inject_adapter_in_model(config, module, low_cpu_mem_usage=True)
    expected = {name: value for name, value in module.state_dict().items() if ".lora_" in name}
    named = {re.sub(r"(\.lora_[AB])\.weight$", r"\1.default.weight", name): value for name, value in adapters.items()}
    module.load_state_dict(_fitted(named, expected, where=f"{prefix}."), strict=False, assign=True)
    fold_adapters(module)


@torch.no_grad()
def fold_adapters(module: nn.Module) -> None:
    """Put plain layers, adapters added to their weights, in the place of layers with adapters."""
    for path, layer in list(module.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer.get_base_layer())
    del module.peft_config


def _build(tensors: Tensors, config: DiTICConfig, *, hint: str = "") -> DiTIC:
    """The model whose tensors these are, and no others; they are not copied."""
    # How wide the CDF table of z is depends on what was learned.
    z_cdf = tensors.get(_Z_CDF)
    width = z_cdf.shape[1] if z_cdf is not None and z_cdf.ndim == 2 else 0
    config = replace(config, latent=replace(config.latent, bottleneck_cdf_length=width))
    with torch.device("meta"):
        model = DiTIC(config)
    fitted = _fitted(tensors, model.state_dict(), hint=hint)
    aliases: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = aliases.setdefault(id(parameter), name)
        if first != name and not torch.equal(fitted[first], fitted[name]):
            raise CheckpointError(f"{first} and {name} are one tensor under two names, and differ here")
    model.load_state_dict(fitted, assign=True)
    if width:
        _check_tables(model)
    return model.eval().requires_grad_(False)


def _fitted(tensors: Tensors, expected: Tensors, *, where: str = "", hint: str = "") -> dict[str, Tensor]:
    """`tensors` in the number formats of `expected`, once names and shapes are those of `expected`."""
    wrong = [
        f"{where}{name} has shape {tuple(tensors[name].shape)}, must have {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors
        and (tensors[name].shape != value.shape or tensors[name].is_floating_point() != value.is_floating_point())
    ]
    problems = [
        _listed("lacks", [where + name for name in expected if name not in tensors], hint),
        _listed("has unexpected", [where + name for name in tensors if name not in expected]),
        _listed("does not fit:", wrong),
    ]
    if any(problems):
        raise CheckpointError(f"the checkpoint {' and '.join(filter(None, problems))}")
    return {name: tensors[name].to(value.dtype) for name, value in expected.items()}


def _listed(what: str, names: list[str], hint: str = "") -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what} {', '.join(names[:5])}{more}{hint}"


def _check_tables(model: DiTIC) -> None:
    """CDF rows must be distributions, and belong to the scales whose indexes choose among them."""
    try:
        cdf_tables(model.codec)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's CDF tables cannot be used: {error}") from error
    if not torch.allclose(model.codec.gaussian_conditional.scale_table, torch.tensor(SCALE_TABLE), rtol=1e-5):
        raise CheckpointError("codec.gaussian_conditional.scale_table is not exp(linspace(ln 0.11, ln 256, 64))")


@torch.no_grad()
def _compute_tables(model: DiTIC) -> None:
    codec = model.codec
    codec.entropy_bottleneck.update(force=True)
    codec.gaussian_conditional.update()
    width = codec.entropy_bottleneck._quantized_cdf.shape[1]
    model.config = replace(model.config, latent=replace(model.config.latent, bottleneck_cdf_length=width))


def _empty_tables() -> dict[str, Tensor]:
    """What stands in the place of a LoRA checkpoint's tables until they are computed."""
    empty = {f"{prior}.{name}": torch.empty(0, dtype=torch.int32) for prior in _PRIORS for name in _TABLES}
    return empty | {"gaussian_conditional.scale_table": torch.tensor(SCALE_TABLE)}


def _part(weights: Mapping[str, Any], part: str) -> dict[str, Tensor]:
    """One dictionary of a LoRA checkpoint, under the names of `DiTIC` and without peft's additions to them."""
    key = f"state_dict_{part}"
    if not isinstance(weights.get(key), dict):
        raise CheckpointError(f"the checkpoint lacks {key}")
    return {_bare(name, part): value for name, value in _only_tensors(weights[key]).items()}


def _bare(name: str, part: str) -> str:
    name = name.removeprefix(f"{part}.").removeprefix("base_model.model.").removeprefix(f"{part}.")
    return re.sub(r"(\.lora_[AB])\.default\.", r"\1.", name).replace(".base_layer.", ".")


def _elic(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    if isinstance(contents.get("state_dict"), dict):
        contents = contents["state_dict"]
    for prefix in ("g_a.", "aux_codec.g_a.", "aux_codec."):
        chosen = {name.removeprefix(prefix): value for name, value in contents.items() if name.startswith(prefix)}
        if chosen:
            return _only_tensors(chosen)
    return _only_tensors(contents)


def _only_tensors(contents: Mapping[str, Any]) -> dict[str, Tensor]:
    others = [str(name) for name, value in contents.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"the checkpoint {_listed('holds what is no tensor:', others)}")
    return dict(contents)
