"""What a frozen checkpoint says of itself, read without its tensors and without torch."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.errors import CheckpointError

FORMAT = "photoark-ditic-1"
SHIPPED = Path(__file__).parent / "weights" / "ditic-small.safetensors"
"""The small model, part of the package."""


def config_of(path: Path) -> DiTICConfig:
    """Configuration of the model whose weights a frozen checkpoint holds.

    Raises:
        CheckpointError: the file is missing or of another format.
    """
    return DiTICConfig.from_dict(json.loads(read_header(path)["config"]))


def read_header(path: Path) -> dict[str, str]:
    """Header of a frozen checkpoint, by the names that `checkpoint` lists.

    Raises:
        CheckpointError: the file is missing or of another format.
    """
    try:
        with safe_open(path, framework="np") as file:
            header: dict[str, str] = file.metadata() or {}
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a frozen checkpoint of this program; make one with `photoark freeze`")
    return header
