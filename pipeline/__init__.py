"""The public door: `pipeline.encode`, `pipeline.decode`, `pipeline.restore`. Nothing heavy loads before one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pipeline.openmp import wait_passively

# Here, since every process that loads torch for us imports this package first, and torch reads the setting but once.
wait_passively()

__all__ = ["decode", "encode", "restore"]

_DOORS = {
    "encode": ("pipeline.encode.run", "encode"),
    "decode": ("pipeline.decode.run", "decode"),
    "restore": ("pipeline.decode.restore", "restore"),
}


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    module, attribute = _DOORS[name]
    return getattr(import_module(module), attribute)
