"""The float halves of DiT-IC on a device: photos -> y, z, and y_hat, scales -> photos; whole or in tiles.

    analyse      photos --encode_pixels, in tiles--> lat[, aux] --encode_latents--> y, z
    synthesise   y_hat, scales --decode_latents--> heads, condition --denoise, in tiles--> x0
                 x0 --decode_pixels, in tiles--> photos

Photos are uint8, B x H x W x 3, padded. Qualities are B integers from 0, one a photo.

The condition is computed once for the whole photo: its tokens depend on the layout. Symbols do not depend on anything here
but the rounding of y and z, which only the encoder does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.codecs.ditic.config import AUX_FACTOR
from pipeline.codecs.ditic.flow import one_step
from pipeline.codecs.ditic.fused import fuse
from pipeline.codecs.ditic.model import NETWORKS, DiTIC, Heads
from pipeline.codecs.ditic.planner import OVERLAP_CELLS, Plan
from pipeline.codecs.neural.int8 import to_int8
from pipeline.codecs.neural.runtime import MAX_COMPILED_SHAPES, Runtime
from pipeline.codecs.neural.tiling import Window, assemble


class Networks:
    """A model's float networks in one number format."""

    def __init__(self, model: DiTIC, *, dtype: torch.dtype, runtime: Runtime) -> None:
        """Bring the float networks of `model` to `dtype`, in place."""
        self.model, self.dtype = model, dtype
        self.factor = model.config.autoencoder.factor
        self.device = model.timesteps.device
        for name in NETWORKS:
            if name == "aux_codec" and model.config.aux_encoder is None:
                continue
            part = model.get_submodule(name)
            _cast(part, dtype)
            if runtime.fused:
                fuse(part)
            if runtime.int8_weights:
                to_int8(part)
        compiled = Compiled if runtime.compile else _eager
        self._analyse = compiled(self._features_of)
        self._latents = compiled(self._latents_of)
        self._steer = compiled(model.steer)
        self._denoise = compiled(self._one_step)
        self._render = compiled(self._pixels_of)

    def analyse(self, photos: NDArray[np.uint8], quality: Sequence[int], plan: Plan) -> tuple[Tensor, Tensor]:
        """y and z, float32 on the device, of padded photos, B x H x W x 3."""
        return self.encode_latents(self.encode_pixels(photos, plan), quality)

    def synthesise(self, y_hat: Tensor, scales: Tensor, quality: Sequence[int], plan: Plan) -> NDArray[np.uint8]:
        """Padded photos, B x H x W x 3, of decoded latents and their scales, B x C x h x w."""
        return self.decode_pixels(self.denoise(*self.decode_latents(y_hat, scales, quality), plan), plan)

    def encode_pixels(self, photos: NDArray[np.uint8], plan: Plan) -> tuple[Tensor, ...]:
        """Photos -> lat and, where there is an auxiliary encoder, aux."""
        if plan.tile is None:
            return self._analyse(self._to_device(photos))
        return self._analyse_tiles(photos, plan.tile)

    def encode_latents(self, features: tuple[Tensor, ...], quality: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What `encode_pixels` made -> y, z, float32."""
        y, z = self._latents(self._gain(quality), *(_channels_last(part) for part in features))
        return y.float(), z.float()

    def decode_latents(self, y_hat: Tensor, scales: Tensor, quality: Sequence[int]) -> tuple[Heads, Tensor]:
        """y_hat, scales -> heads and the condition of the whole photo."""
        y_hat, scales = (_channels_last(part.to(self.dtype)) for part in (y_hat, scales))
        return self._steer(y_hat, scales, self._gain(quality))

    def denoise(self, heads: Heads, condition: Tensor, plan: Plan) -> Tensor:
        """Heads, condition -> x0, float32."""
        parts = (heads.mean, heads.logvar, heads.residual)
        if plan.transformer_tile is None:
            return self._denoise(*parts, condition)
        (x0,) = assemble(
            lambda window: [self._denoise(*(_channels_last(window.of(part)) for part in parts), condition)],
            (heads.mean.shape[2], heads.mean.shape[3]),
            lambda _, band: torch.empty_like(heads.mean, dtype=band.dtype),
            [1],
            tile=plan.transformer_tile,
            overlap=OVERLAP_CELLS,
        )
        return x0

    def decode_pixels(self, x0: Tensor, plan: Plan) -> NDArray[np.uint8]:
        """x0 -> photos."""
        if plan.tile is None:
            return _to_host(self._render(x0).to(torch.uint8).permute(0, 2, 3, 1))
        return self._render_tiles(x0, plan.tile)

    def _analyse_tiles(self, photos: NDArray[np.uint8], tile: int) -> tuple[Tensor, ...]:
        # Photos stay on the host as bytes; what lives on the device is a tile and the canvases of lat and aux.
        height, width = (side // self.factor for side in photos.shape[1:3])
        per_cell = [1] if self.model.config.aux_encoder is None else [1, self.factor // AUX_FACTOR]

        def run(window: Window) -> list[Tensor]:
            place = window.scaled(self.factor)
            cut = photos[:, place.rows.start : place.rows.stop, place.columns.start : place.columns.stop]
            return [part.float() for part in self._analyse(self._to_device(cut))]

        def canvas(i: int, band: Tensor) -> Tensor:
            return band.new_empty(*band.shape[:2], height * per_cell[i], band.shape[3])

        parts = assemble(run, (height, width), canvas, per_cell, tile=tile, overlap=OVERLAP_CELLS)
        return tuple(part.to(self.dtype) for part in parts)

    def _render_tiles(self, x0: Tensor, tile: int) -> NDArray[np.uint8]:
        height, width = x0.shape[2:]

        def canvas(_: int, band: Tensor) -> Tensor:
            # On the host, as bytes: the only thing as large as the photo.
            shape = (band.shape[0], height * self.factor, band.shape[3], 3)
            return torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)

        (pixels,) = assemble(
            lambda window: [self._render(_channels_last(window.of(x0)))],
            (height, width),
            canvas,
            [self.factor],
            tile=tile,
            overlap=OVERLAP_CELLS,
        )
        return pixels.permute(0, 2, 3, 1).numpy()

    def _features_of(self, x: Tensor) -> tuple[Tensor, ...]:
        lat, aux = self.model.analyse(x)
        return (lat,) if aux is None else (lat, aux)

    def _latents_of(self, gain: Tensor, lat: Tensor, aux: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.codec.analyse(lat, aux, gain)

    def _gain(self, quality: Sequence[int]) -> Tensor:
        return self.model.codec.gain(torch.tensor(quality, device=self.device)).to(self.dtype)

    def _one_step(self, mean: Tensor, logvar: Tensor, residual: Tensor, condition: Tensor) -> Tensor:
        return one_step(self.model.DiT, mean, logvar, residual, condition, self.model.timesteps)

    def _pixels_of(self, x0: Tensor) -> Tensor:
        """0..255, rounded, still in the network's format."""
        return self.model.render(x0.to(self.dtype)).float().add(1).mul(127.5).round().clamp(0, 255)

    def _to_device(self, photos: NDArray[np.uint8]) -> Tensor:
        """B x 3 x H x W in [-1, 1], channels last."""
        x = torch.from_numpy(np.ascontiguousarray(photos))
        if self.device.type == "cuda":
            x = x.pin_memory().to(self.device, non_blocking=True)
        return x.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1).to(self.dtype)


class Compiled:
    """`run` with kernels compiled for the first few shapes that it meets, and without for others."""

    def __init__(self, run: Callable[..., Any]) -> None:
        # Two to a shape: kernels of channels-last tensors are not those of others.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 2 * MAX_COMPILED_SHAPES)
        self._plain, self._fast = run, torch.compile(run, dynamic=False)
        self._shapes: set[tuple[torch.Size, ...]] = set()

    def __call__(self, *tensors: Tensor) -> Any:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in self._shapes and len(self._shapes) >= MAX_COMPILED_SHAPES:
            return self._plain(*tensors)
        self._shapes.add(shapes)
        return self._fast(*tensors)


def _eager(run: Callable[..., Any]) -> Callable[..., Any]:
    return run


def _cast(part: nn.Module, dtype: torch.dtype) -> None:
    # Not Module.to: diffusers' models warn of it, about a feature that these do not have.
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _to_host(x: Tensor) -> NDArray[np.uint8]:
    if x.device.type != "cuda":
        return x.numpy()
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return host.numpy()
