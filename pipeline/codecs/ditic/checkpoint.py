"""The file that a codec runs from: one safetensors file, exact entropy path and float16 networks together.

    tensors   float.<name>   float16, state dict of everything outside the entropy path
              exact.<name>   integers: weights, tables, CDFs, thresholds
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
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH
from pipeline.codecs.ditic.model import DiTIC
from pipeline.entropy.fixed_point import Spec
from pipeline.errors import CheckpointError

FORMAT = "photoark-ditic-1"
SHIPPED = Path(__file__).parent / "weights" / "ditic-small.safetensors"
"""The small model, part of the package."""
# Replaced by the exact path, or needed only in training.
_DROPPED = tuple(f"codec.{part}." for part in (*ENTROPY_PATH, "entropy_bottleneck", "gaussian_conditional"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint ready to run."""

    model: DiTIC
    entropy: ExactEntropyModel
    fingerprint: str
    training: dict[str, Any]
    """What is known of how the weights came to be."""


def save(
    path: Path, model: DiTIC, specs: Mapping[str, Spec], tensors: Mapping[str, Tensor], training: Mapping[str, Any]
) -> str:
    """Write a frozen checkpoint; returns its fingerprint.

    Args:
        model: the float model, entropy path included (that part is left out of the file).
        specs: from `exact.quantise`.
        tensors: from `exact.quantise`.
    """
    stored = {f"float.{name}": value.to(torch.float16) for name, value in _float_part(model.state_dict()).items()}
    stored |= {f"exact.{name}": value for name, value in tensors.items()}
    stored = {name: value.contiguous().clone() for name, value in stored.items()}
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
    model = DiTIC(DiTICConfig.from_dict(json.loads(header["config"])))
    floats = {name.removeprefix("float."): value.float() for name, value in stored.items() if name.startswith("float.")}
    expected = _float_part(model.state_dict()).keys()
    if expected != floats.keys():
        raise CheckpointError(f"{path} does not fit its model: {', '.join(sorted(expected ^ floats.keys())[:5])}")
    model.load_state_dict(floats, strict=False)
    integers = {name.removeprefix("exact."): value for name, value in stored.items() if name.startswith("exact.")}
    model = model.eval().requires_grad_(False).to(device)
    entropy = ExactEntropyModel(model.codec, json.loads(header["specs"]), integers)
    training = json.loads(header.get("training", "{}"))
    return Loaded(model=model, entropy=entropy, fingerprint=header["fingerprint"], training=training)


def check(path: Path) -> str:
    """Fingerprint of a frozen checkpoint, once its content agrees with it.

    Raises:
        CheckpointError: the file is missing, of another format, or damaged.
    """
    return _read(path)[0]["fingerprint"]


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a frozen checkpoint of this program; make one with `photoark freeze`")
    fingerprint = _fingerprint(header["config"], header["specs"], stored)
    if fingerprint != header["fingerprint"]:
        raise CheckpointError(f"{path} is damaged: its content does not match its fingerprint; fetch the file again")
    return header, stored


def _float_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: v for n, v in state.items() if not n.startswith(_DROPPED) and n != "timesteps" and not _is_alias(n)}


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
