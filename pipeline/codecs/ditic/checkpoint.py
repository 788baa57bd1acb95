"""The file that a codec runs from: one safetensors file, exact entropy path and float16 networks together.

    tensors   float.<name>     float16, state dict of everything outside the entropy path
              exact.<name>     integers: weights, tables, CDFs, thresholds
              release.<name>   float32, the entropy path as it came: only where weights of the official release were
                               imported, whose own streams need it (`release.py`)
    header    format, config (JSON), specs (JSON), training (JSON), fingerprint

The fingerprint is the first 16 hex digits of the SHA-256 over the config, the specs and every tensor: streams carry it, and
a file that does not match its own is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.exact import ExactEntropyModel
from pipeline.codecs.ditic.flow import TIMESTEP
from pipeline.codecs.ditic.header import FORMAT, read_header
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH
from pipeline.codecs.ditic.model import DiTIC
from pipeline.entropy.fixed_point import Spec
from pipeline.errors import CheckpointError

_PRIORS = ("entropy_bottleneck", "gaussian_conditional")
ENTROPY_PREFIXES = tuple(f"codec.{part}." for part in (*ENTROPY_PATH, *_PRIORS))
"""How the names of tensors begin that the exact path replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint ready to run."""

    model: DiTIC
    entropy: ExactEntropyModel
    fingerprint: str
    training: dict[str, Any]
    """What is known of how the weights came to be."""


def save(
    path: Path,
    model: DiTIC,
    specs: Mapping[str, Spec],
    tensors: Mapping[str, Tensor],
    training: Mapping[str, Any],
    *,
    released: bool = False,
) -> str:
    """Write a frozen checkpoint; returns its fingerprint.

    Args:
        model: the float model, entropy path included.
        specs: from `exact.quantise`.
        tensors: from `exact.quantise`.
        released: keep the float entropy path as well, for streams of the official release.
    """
    state = model.state_dict()
    stored = {f"float.{name}": value.to(torch.float16).contiguous() for name, value in _float_part(state).items()}
    stored |= {f"exact.{name}": value.contiguous().clone() for name, value in tensors.items()}
    if released:
        stored |= {f"release.{name}": value.contiguous().clone() for name, value in _entropy_part(state).items()}
    config, spec = json.dumps(model.config.to_dict(), sort_keys=True), json.dumps(dict(specs), sort_keys=True)
    fingerprint = _fingerprint(config, spec, stored)
    header = {"format": FORMAT, "config": config, "specs": spec, "fingerprint": fingerprint}
    save_file(stored, path, metadata=header | {"training": json.dumps(dict(training), sort_keys=True)})
    return fingerprint


def load(path: Path, *, device: str = "cpu") -> Loaded:
    """Read and check a frozen checkpoint.

    Raises:
        CheckpointError: the file is missing, of another format, damaged, or lacks tensors.
    """
    header, stored = _read(path)
    model = _model(header)
    _fill(path, model, _part(stored, "float.", device), _float_part(model.state_dict()))
    for name in _PRIORS:  # their tables and medians are among the integers
        delattr(model.codec, name)
    entropy = ExactEntropyModel(model.codec, json.loads(header["specs"]), _part(stored, "exact."))
    model = model.eval().requires_grad_(False).to(device)
    training = json.loads(header.get("training", "{}"))
    return Loaded(model=model, entropy=entropy, fingerprint=header["fingerprint"], training=training)


def load_float(path: Path) -> tuple[DiTIC, str]:
    """The float model of a checkpoint that was imported from the official release, and its fingerprint.

    Raises:
        CheckpointError: as `load`, or the file was not imported and holds no float entropy path.
    """
    header, stored = _read(path)
    released = _part(stored, "release.")
    if not released:
        raise CheckpointError(f"{path} holds no float entropy path: only imported weights of the release read its streams")
    model = _model(header)
    state = model.state_dict()
    _fill(path, model, _part(stored, "float.") | released, _float_part(state) | _entropy_part(state))
    return model.eval().requires_grad_(False), header["fingerprint"]


def check(path: Path) -> str:
    """Fingerprint of a frozen checkpoint, once its content agrees with it.

    Raises:
        CheckpointError: the file is missing, of another format, or damaged.
    """
    return _read(path)[0]["fingerprint"]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    header = read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    fingerprint = _fingerprint(header["config"], header["specs"], stored)
    if fingerprint != header["fingerprint"]:
        raise CheckpointError(f"{path} is damaged: its content does not match its fingerprint; fetch the file again")
    return header, stored


def _model(header: Mapping[str, str]) -> DiTIC:
    """A model without weights: random ones would cost memory and time, and each is about to be replaced."""
    with torch.device("meta"):
        model = DiTIC(DiTICConfig.from_dict(json.loads(header["config"])))
    model.timesteps = torch.full((1,), TIMESTEP, dtype=torch.int64)
    return model


def _part(stored: Mapping[str, Tensor], prefix: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors under `prefix`, without it; float ones as float32, on `device`."""
    return {
        name.removeprefix(prefix): value.to(device, torch.float32) if value.is_floating_point() else value
        for name, value in stored.items()
        if name.startswith(prefix)
    }


def _fill(path: Path, model: DiTIC, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    different = sorted(expected.keys() ^ tensors.keys())
    different = different or [name for name, value in expected.items() if value.shape != tensors[name].shape]
    if different:
        raise CheckpointError(f"{path} does not fit its model: {', '.join(different[:5])}")
    model.load_state_dict(tensors, strict=False, assign=True)


def _float_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: v for n, v in state.items() if not n.startswith(ENTROPY_PREFIXES) and n != "timesteps" and not _is_alias(n)}


def _entropy_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith(ENTROPY_PREFIXES)}


def _is_alias(name: str) -> bool:
    # `branch1` is stored once; the names beside it are the same module. Adapters have no twin.
    return (".up." in name and name.startswith("codec.")) or (name.endswith((".down.weight", ".down.bias")) and "g_a" in name)


def _fingerprint(config: str, specs: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(f"{config}\n{specs}\n".encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
