"""Where a network runs."""

from __future__ import annotations

import torch

from pipeline.errors import SettingError


def choose_device(name: str) -> str:
    """Resolve `auto` to `cuda` where there is one, else `cpu`; other names are checked.

    Raises:
        SettingError: the device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("--device cuda: this machine shows no CUDA device; use auto or cpu")
    if name not in ("cpu", "cuda"):
        raise SettingError(f"--device {name}: choose auto, cpu or cuda")
    return name
