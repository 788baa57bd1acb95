"""How a neural codec runs: number format, threads, memory. None of it changes which integers a stream is read as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SettingError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
MAX_COMPILED_SHAPES = 8
"""Shapes for which kernels are compiled; photos of any other shape run without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Settings of a codec at work."""

    dtype: str = "auto"
    """Of the float networks: float32, bfloat16, float16; auto takes bfloat16 where the device computes in it."""
    int8_weights: bool = False
    """Keep the float networks' weights as 8-bit integers with a scale per output channel: a quarter of float32."""
    fused: bool = True
    """Run several operations of a layer as one, and the integer path in float32 where that is exact, on a CPU in compiled
    loops. Without, that path takes float64, one operation after the other: the reference, and the same streams."""
    compile: bool = False
    """Compile kernels for the first `MAX_COMPILED_SHAPES` shapes: seconds to minutes each, faster from then on."""
    memory_bytes: int | None = None
    """What the codec may use beside its weights; None: what is free when it is made, less a quarter."""
    num_workers: int | None = None
    """Groups of photos that are worked on at once; None: one a core on a CPU, two on a GPU (one computes, one codes)."""

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", *DTYPES):
            raise SettingError(f"precision {self.dtype}: choose auto, {', '.join(DTYPES)}")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise SettingError("the memory that the codec may use must be positive")


DEFAULT_RUNTIME = Runtime()


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format called `name`; for `auto`, the narrowest that `device` computes in at full speed."""
    import torch  # here: settings are read without it

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else torch.float32


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be claimed on `device`, a container's limit respected."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]

    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)
