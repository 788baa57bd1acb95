"""How much of a photo goes through the networks at once: from the free memory and the photo's size.

The memory that a pass takes grows with its pixels. How fast is found by running the pass on the meta device, where tensors
have sizes and no content: it needs no memory and holds for any configuration, but takes seconds, most of them to import torch's
compiler. For the shipped model the result is kept here.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.codecs.ditic.config import AUX_FACTOR, DiTICConfig
from pipeline.codecs.ditic.model import DiTIC, Heads
from pipeline.errors import UnsupportedPhotoError

OVERLAP_CELLS = 8
"""What neighbouring tiles share, in positions of the autoencoder's latent."""
MAX_TILE_CELLS = 64
"""Longest side of a tile."""
_MIN_TILE_CELLS = 3 * OVERLAP_CELLS
_WORKSPACE = 1.3
"""What convolutions and the allocator take beside the tensors that a program sees."""
_EXACT_FACTOR = 1.6
"""The integer path holds indices of tables and symbols besides, and here and there float64 for float32."""
_SIDE_CELLS = 512
"""Side of the photo that the passes are tried on, in positions of y: large enough for the widest layers to run in strips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Peak memory of each pass, bytes per padded pixel of a photo."""

    analyse: float
    """Both encoders; can be tiled."""
    latents: float
    """g_a and h_a, over the whole photo."""
    entropy: float
    """The exact path, over the whole photo."""
    heads: float
    """Heads of the decoded latent and the condition, over the whole photo."""
    denoise: float
    """The transformer; can be tiled."""
    render: float
    """The autoencoder's decoder; can be tiled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What goes through at once."""

    batch: int
    """Photos."""
    tile: int | None
    """Side of a tile of the autoencoder, in positions of its latent; None: the whole photo."""
    transformer_tile: int | None
    """The same of the transformer."""


def plan(config: DiTICConfig, dtype: torch.dtype, width: int, height: int, *, memory_bytes: int, max_pixels: int) -> Plan:
    """Largest batch, else largest tile, that stays within `memory_bytes`.

    Args:
        width: padded, pixels.
        height: padded, pixels.
        max_pixels: of a batch; more would not be faster.

    Raises:
        UnsupportedPhotoError: not even tiles fit.
    """
    needs, pixels = footprint(config, dtype), width * height
    # Photos in and out as bytes, and the latent-sized tensors that live through all passes.
    budget = memory_bytes - 8 * pixels
    whole = max(needs.analyse, needs.latents, needs.entropy, needs.heads, needs.denoise, needs.render)
    batch = min(max_pixels // pixels, int(budget // (whole * pixels)))
    if batch >= 1 or whole * pixels <= budget:
        return Plan(batch=max(1, batch), tile=None, transformer_tile=None)
    fixed = max(needs.latents, needs.entropy, needs.heads) * pixels
    if fixed > budget:
        raise UnsupportedPhotoError(
            f"a photo of {width} x {height} needs {(fixed + 8 * pixels) / 2**30:.2f} GiB beside the weights, in tiles; "
            f"{memory_bytes / 2**30:.2f} GiB are allowed"
        )
    return Plan(
        batch=1,
        tile=_tile(max(needs.analyse, needs.render), pixels, budget, config),
        transformer_tile=_tile(needs.denoise, pixels, budget, config),
    )


def _tile(bytes_per_pixel: float, pixels: int, budget: float, config: DiTICConfig) -> int | None:
    if bytes_per_pixel * pixels <= budget:
        return None
    side = math.isqrt(max(0, int(budget / bytes_per_pixel))) // config.autoencoder.factor
    if side < _MIN_TILE_CELLS:
        raise UnsupportedPhotoError(f"{budget / 2**30:.2f} GiB of memory do not hold even a small tile; allow more (--memory)")
    return min(side, MAX_TILE_CELLS)


_SMALL_HALF = Footprint(analyse=31.2, latents=10.4, entropy=18.1, heads=11.7, denoise=21.13, render=52.33)
_SMALL = {
    torch.float32: Footprint(analyse=46.8, latents=20.8, entropy=18.1, heads=23.4, denoise=33.81, render=73.45),
    torch.bfloat16: _SMALL_HALF,
    torch.float16: _SMALL_HALF,
}
"""What `measured` finds of the shipped model; a test compares them."""


def footprint(config: DiTICConfig, dtype: torch.dtype) -> Footprint:
    """Peak memory of every pass of a model of this configuration, float networks in `dtype`."""
    return _SMALL[dtype] if config == DiTICConfig.small() and dtype in _SMALL else measured(config, dtype)


@lru_cache(maxsize=8)
def measured(config: DiTICConfig, dtype: torch.dtype) -> Footprint:
    """Measure what `footprint` tells."""
    with torch.device("meta"):
        model = DiTIC(config, with_priors=False).eval().requires_grad_(False)
    codec, c = model.codec, config
    codec.in_strips = True
    side = _SIDE_CELLS * c.y_factor
    cells, small = side // c.autoencoder.factor, side // c.y_factor

    def meta(channels: int, size: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(1, channels, size, size, dtype=kind, device="meta")

    def peak(run: Callable[[], object], factor: float = _WORKSPACE) -> float:
        with torch.inference_mode(), PeakMemory() as memory:
            run()
        return factor * memory.peak_bytes / side**2

    z, y = meta(c.latent.z_channels, small // 4, torch.float32), meta(c.latent.y_channels, small, torch.float32)
    entropy = peak(lambda: _context(codec, z, y), _EXACT_FACTOR)
    model.to(dtype)
    lat_channels = c.autoencoder.latent_channels
    lat, wide = meta(lat_channels, cells), meta(c.latent.y_channels, small)
    heads = Heads(mean=lat, logvar=lat, residual=lat)
    condition = torch.empty(1, 1, c.condition.channels, dtype=dtype, device="meta")
    x = meta(3, side)
    aux = None if c.aux_encoder is None else meta(c.aux_encoder.out_channels, side // AUX_FACTOR)
    gain = torch.empty(1, 1, 1, 1, dtype=dtype, device="meta")
    return Footprint(
        analyse=peak(lambda: model.analyse(x)),
        latents=peak(lambda: codec.analyse(lat, aux, gain)),
        entropy=entropy,
        heads=peak(lambda: model.steer(wide, wide, gain)),
        denoise=peak(lambda: model.denoise(heads, condition)),
        render=peak(lambda: model.render(lat)),
    )


def _context(codec: Any, z: Tensor, y: Tensor) -> Tensor:
    return codec.context_steps(codec.hyper_synthesis(z), lambda k, mean, scale: torch.empty_like(mean), y.new_empty(1, 1, 1, 1))


class PeakMemory(TorchDispatchMode):
    """Largest sum of the bytes of all tensors that were made inside and still lived."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = self._live_bytes = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._track(value.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        self._live_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, num_bytes: int) -> None:
        self._live_bytes -= num_bytes
