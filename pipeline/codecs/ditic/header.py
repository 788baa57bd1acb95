"""What a frozen checkpoint says of itself, read without its tensors and without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.errors import CheckpointError

FORMAT = "photoark-ditic-1"
SHIPPED = Path(__file__).parent / "weights" / "ditic-small.safetensors"
"""The small model, part of the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The header of a frozen checkpoint."""

    values: dict[str, str]
    """By the names that `checkpoint` lists."""
    config: DiTICConfig

    @property
    def fingerprint(self) -> str:
        """As the file claims."""
        return self.values["fingerprint"]


def config_of(path: Path) -> DiTICConfig:
    """Configuration of the model whose weights a frozen checkpoint holds.

    Raises:
        CheckpointError: the file is missing or of another format.
    """
    return read_header(path).config


def read_header(path: Path) -> Header:
    """Header of a frozen checkpoint.

    Raises:
        CheckpointError: the file is missing or of another format.
    """
    try:
        with safe_open(path, framework="np") as file:
            values: dict[str, str] = file.metadata() or {}
            names = list(file.keys())
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a frozen checkpoint of this program; make one with `photoark freeze`")
    config = json.loads(values["config"])
    if isinstance(config.get("latent"), dict) and any(name.startswith("release.") for name in names):
        # Imported before `bounds_scales` was stored; weights of the release were not trained with the bound.
        config["latent"].setdefault("bounds_scales", False)
    return Header(values=values, config=DiTICConfig.from_dict(config))
