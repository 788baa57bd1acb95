"""The file that a codec runs from: one safetensors file, exact entropy path and float networks together.

    tensors   float.<name>     float16 (float32 if so imported), state dict of everything outside the entropy path
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.exact import ExactEntropyModel
from pipeline.codecs.ditic.flow import TIMESTEP
from pipeline.codecs.ditic.header import FORMAT, Header, read_header
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH
from pipeline.codecs.ditic.model import NETWORKS, DiTIC
from pipeline.codecs.neural.tensor_file import Stored, raw_bytes, read, write
from pipeline.entropy.fixed_point import Spec
from pipeline.errors import CheckpointError
from pipeline.progress import OnStep, Step, ignore_step

_PRIORS = ("entropy_bottleneck", "gaussian_conditional")
ENTROPY_PREFIXES = tuple(f"codec.{part}." for part in (*ENTROPY_PATH, *_PRIORS))
"""How the names of tensors begin that the exact path replaces."""
_NETWORK_PREFIXES = tuple(f"{part}." for part in NETWORKS)


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
    dtype: torch.dtype = torch.float16,
    on_step: OnStep = ignore_step,
) -> str:
    """Write a frozen checkpoint; returns its fingerprint. Takes little memory beside the model.

    Args:
        model: the float model, entropy path included.
        specs: from `exact.quantise`.
        tensors: from `exact.quantise`.
        released: keep the float entropy path as well, for streams of the official release.
        dtype: of everything outside the entropy path, float16 or float32.
        on_step: called as the file grows.
    """
    state = model.state_dict()
    stored = {f"float.{name}": Stored(value=value, dtype=dtype) for name, value in _float_part(state).items()}
    stored |= {f"exact.{name}": Stored(value=value, dtype=value.dtype) for name, value in tensors.items()}
    if released:
        stored |= {f"release.{name}": Stored(value=value, dtype=value.dtype) for name, value in _entropy_part(state).items()}
    config, spec = json.dumps(model.config.to_dict(), sort_keys=True), json.dumps(dict(specs), sort_keys=True)
    digest = Digest(config, spec)
    progress = _Bytes(2 * sum(each.value.numel() * each.dtype.itemsize for each in stored.values()), on_step)
    for name in sorted(stored):
        progress.add(digest.add(name, stored[name].converted()))
    fingerprint = digest.fingerprint()
    header = {"format": FORMAT, "config": config, "specs": spec, "fingerprint": fingerprint}
    write(path, stored, header | {"training": json.dumps(dict(training), sort_keys=True)}, progress.add)
    return fingerprint


def load(path: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Read and check a frozen checkpoint.

    Args:
        device: where the networks go.
        dtype: that their weights are converted to as they are read.

    Raises:
        CheckpointError: the file is missing, of another format, damaged, or lacks tensors.
    """

    def kept(name: str, value: Tensor) -> Tensor | None:
        if name.startswith("float."):
            bare = name.removeprefix("float.")
            return value.to(device, dtype if bare.startswith(_NETWORK_PREFIXES) else torch.float32, copy=True)
        return value.clone() if name.startswith("exact.") else None

    header, stored = _read(path, kept)
    model = _model(header.config, with_priors=False)  # their tables and medians are among the integers
    _fill(path, model, _part(stored, "float."), _float_part(model.state_dict()))
    entropy = ExactEntropyModel(model.codec, json.loads(header.values["specs"]), _part(stored, "exact."))
    model = model.eval().requires_grad_(False).to(device)
    training = json.loads(header.values.get("training", "{}"))
    return Loaded(model=model, entropy=entropy, fingerprint=header.fingerprint, training=training)


def load_float(path: Path) -> tuple[DiTIC, str]:
    """The float32 model of a checkpoint that was imported from the official release, and its fingerprint.

    Raises:
        CheckpointError: as `load`, or the file was not imported and holds no float entropy path.
    """

    def kept(name: str, value: Tensor) -> Tensor | None:
        if not name.startswith(("float.", "release.")):
            return None
        return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)

    header, stored = _read(path, kept)
    released = _part(stored, "release.")
    if not released:
        raise CheckpointError(f"{path} holds no float entropy path: only imported weights of the release read its streams")
    model = _model(header.config, with_priors=True)
    state = model.state_dict()
    _fill(path, model, _part(stored, "float.") | released, _float_part(state) | _entropy_part(state))
    return model.eval().requires_grad_(False), header.fingerprint


def check(path: Path) -> str:
    """Fingerprint of a frozen checkpoint, once its content agrees with it.

    Raises:
        CheckpointError: the file is missing, of another format, or damaged.
    """
    return _read(path, lambda name, value: None)[0].fingerprint


class Digest:
    """The fingerprint of a checkpoint, from its tensors in the order of their names."""

    def __init__(self, config: str, specs: str) -> None:
        self._digest = hashlib.sha256(f"{config}\n{specs}\n".encode())

    def add(self, name: str, value: Tensor) -> int:
        """Take one more tensor in; returns its bytes."""
        self._digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        self._digest.update(raw_bytes(value))
        return value.nbytes

    def fingerprint(self) -> str:
        """16 hex digits."""
        return self._digest.hexdigest()[:16]


class _Bytes:
    """Reports how much of a file is done."""

    def __init__(self, total: int, on_step: OnStep) -> None:
        self._done, self._total, self._on_step = 0, total, on_step

    def add(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._on_step(Step(stage="writing", num_done=self._done, num_total=self._total, unit="bytes"))


def _read(path: Path, kept: Callable[[str, Tensor], Tensor | None]) -> tuple[Header, dict[str, Tensor]]:
    """Header, and what `kept` makes of each tensor; one that becomes None is only checked."""
    header = read_header(path)
    stored: dict[str, Tensor] = {}
    digest = Digest(header.values["config"], header.values["specs"])
    try:
        for name, value in read(path):
            digest.add(name, value)
            mine = kept(name, value)
            if mine is not None:
                stored[name] = mine
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if digest.fingerprint() != header.fingerprint:
        raise CheckpointError(f"{path} is damaged: its content does not match its fingerprint; fetch the file again")
    return header, stored


def _model(config: DiTICConfig, *, with_priors: bool) -> DiTIC:
    """A model without weights: random ones would cost memory and time, and each is about to be replaced."""
    with torch.device("meta"):
        model = DiTIC(config, with_priors=with_priors)
    model.timesteps = torch.full((1,), TIMESTEP, dtype=torch.int64)
    return model


def _part(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors under `prefix` out of `stored`, without it."""
    return {name.removeprefix(prefix): stored.pop(name) for name in list(stored) if name.startswith(prefix)}


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
