"""DiT-IC as a codec: photos -> exact bitstreams -> photos.

encode: pad -> analyse (float) -> y, z -> exact entropy model -> rANS -> container
decode: container -> rANS and exact entropy model, step by step -> heads, transformer, autoencoder (float) -> crop
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.base import CodecInfo, Pixels
from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.header import SHIPPED
from pipeline.codecs.ditic.networks import Networks
from pipeline.codecs.ditic.planner import Plan, plan
from pipeline.codecs.neural.runtime import DEFAULT_RUNTIME, Runtime, choose_dtype, free_memory_bytes
from pipeline.codecs.neural.workers import Workers
from pipeline.entropy.container import Header, check_kind, pack, symbols_checksum, unpack
from pipeline.entropy.decoder import RansDecoder
from pipeline.entropy.encoder import encode_symbols
from pipeline.entropy.fixed_point import use_float64, use_kernels
from pipeline.errors import CorruptStreamError, UnsupportedPhotoError
from pipeline.pixels.bucket import batches
from pipeline.pixels.padding import crop, pad, padded_size

T = TypeVar("T")

_BATCH_PIXELS = {"cpu": 400_000, "cuda": 16_000_000}
"""Larger batches are no faster: a CPU has its workers side by side."""
MAX_PIXELS = 200_000_000
"""Padded; a larger photo is not encoded, and a stream that claims more is refused before anything is allocated."""


class DiTICCodec:
    """A frozen DiT-IC checkpoint on a device."""

    def __init__(
        self,
        loaded: checkpoint.Loaded,
        *,
        device: str = "cpu",
        runtime: Runtime = DEFAULT_RUNTIME,
        quality: int | None = None,
        max_batch_pixels: int | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Wrap a loaded checkpoint.

        Args:
            quality: of `encode`, from 1, the lowest rate; None: the highest there is. Streams say their own.
            workers: of the device; None for new ones.
            max_batch_pixels: padded pixels that go through the networks at once; a larger photo goes alone. None: what is
                fast on the device.
        """
        self.model = loaded.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.entropy = loaded.entropy
        self._least_bits = loaded.entropy.tables.least_bits
        self.num_qualities = loaded.model.config.latent.num_qualities
        self.quality = loaded.model.config.check_quality(quality)
        self.device = torch.device(device)
        (use_kernels if runtime.fused else use_float64)(self.model.codec)
        self.networks = Networks(self.model, dtype=choose_dtype(runtime.dtype, self.device), runtime=runtime)
        self.max_batch_pixels = max_batch_pixels or _BATCH_PIXELS[self.device.type]
        self._workers = workers or _workers(self.device, runtime)
        self._memory_bytes = runtime.memory_bytes or 3 * free_memory_bytes(self.device) // 4
        config = loaded.model.config
        self.info = CodecInfo(name=config.name, model=loaded.fingerprint, multiple=config.multiple, generative=True)

    @classmethod
    def load(
        cls,
        weights: Path | None = None,
        *,
        device: str = "cpu",
        runtime: Runtime = DEFAULT_RUNTIME,
        quality: int | None = None,
    ) -> DiTICCodec:
        """Load a frozen checkpoint; without `weights`, the small model that comes with the package.

        Raises:
            SettingError: the model has no such quality.
            CheckpointError: the file is missing or damaged.
        """
        workers = _workers(torch.device(device), runtime)

        def make() -> DiTICCodec:
            dtype = choose_dtype(runtime.dtype, torch.device(device))
            loaded = checkpoint.load(weights or SHIPPED, device=device, dtype=dtype)
            return cls(loaded, device=device, runtime=runtime, quality=quality, workers=workers)

        return workers.solo(make)

    def at(self, quality: int | None) -> DiTICCodec:
        """See `Codec.at`."""
        other = copy.copy(self)
        other.quality = self.model.config.check_quality(quality)
        return other

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """One container a photo; see `Codec.encode`.

        Raises:
            UnsupportedPhotoError: larger than what is decoded again, or than the memory allows.
        """
        for image in images:
            if math.prod(padded_size(image.shape[1], image.shape[0], self.info.multiple)) > MAX_PIXELS:
                raise UnsupportedPhotoError(f"{self.info.name} streams hold at most {MAX_PIXELS} pixels")
        return self._run([image.shape[:2] for image in images], lambda group: self._encode_group([images[i] for i in group]))

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """Inverse of `encode`; see `Codec.decode`."""
        opened = [self.open(stream) for stream in streams]
        return self._run([(h.height, h.width) for h, _ in opened], lambda group: self._decode_group([opened[i] for i in group]))

    def latents(self, streams: Sequence[bytes]) -> list[Tensor]:
        """y_hat of each stream, C x h x w float32: the integers that must be the same on every machine."""
        opened = [self.open(stream) for stream in streams]
        return self._run([(h.height, h.width) for h, _ in opened], lambda group: list(self.read([opened[i] for i in group])[0]))

    def solo(self, work: Callable[[], T]) -> T:
        """`work` on the device with all cores, as a photo that is alone."""
        return self._workers.solo(work)

    @property
    def num_workers(self) -> int:
        """Groups of photos that are worked on at once."""
        return self._workers.count

    def plan_for(self, width: int, height: int) -> Plan:
        """How photos of this padded size go through the networks.

        Raises:
            UnsupportedPhotoError: there is too little memory for such a photo.
        """
        return self._plan(width, height)[0]

    @torch.inference_mode()
    def _encode_group(self, images: Sequence[Pixels]) -> list[bytes]:
        padded = np.stack([pad(image, self.info.multiple) for image in images])
        qualities = [self.quality - 1] * len(images)
        y, z = self.networks.analyse(padded, qualities, self.plan_for(padded.shape[2], padded.shape[1]))
        coded = self.entropy.encode(y, z, qualities)
        return [
            pack(
                self._header(image.shape[1], image.shape[0], self.quality, [symbols]),
                encode_symbols(symbols, rows, self.entropy.tables),
            )
            for image, (symbols, rows) in zip(images, coded, strict=True)
        ]

    @torch.inference_mode()
    def _decode_group(self, opened: Sequence[tuple[Header, bytes]]) -> list[Pixels]:
        y_hat, scales = self.read(opened)
        factor = self.model.config.y_factor
        qualities = [header.quality - 1 for header, _ in opened]
        chosen = self.plan_for(y_hat.shape[3] * factor, y_hat.shape[2] * factor)
        pixels = self.networks.synthesise(y_hat, scales, qualities, chosen)
        return [crop(p, h.width, h.height) for p, (h, _) in zip(pixels, opened, strict=True)]

    @torch.inference_mode()
    def read(self, opened: Sequence[tuple[Header, bytes]]) -> tuple[Tensor, Tensor]:
        """y_hat and scales of streams of one padded shape, checked against their checksums."""
        decoders = [RansDecoder(payload, self.entropy.tables) for _, payload in opened]
        height, width = self._y_size(opened[0][0])
        qualities = [header.quality - 1 for header, _ in opened]
        y_hat, scales, symbols = self.entropy.decode(decoders, qualities, height, width)
        for decoder, (header, _), parts in zip(decoders, opened, symbols, strict=True):
            decoder.finish()
            if self._header(header.width, header.height, header.quality, parts).checksum != header.checksum:
                raise CorruptStreamError("the symbols do not match their checksum; restore the archive from a copy")
        return y_hat, scales

    def open(self, stream: bytes) -> tuple[Header, bytes]:
        """Header and payload of a container that these weights can decode.

        Raises:
            CorruptStreamError: it is damaged, or claims a size that its payload cannot fill.
            UnknownModelError: it needs other weights or arithmetic.
        """
        header, payload = unpack(stream)
        check_kind(header, codec=self.info.name, model=self.info.model, arithmetic="exact-1")
        if header.quality > self.num_qualities:
            raise CorruptStreamError(f"the bitstream claims quality {header.quality} of {self.num_qualities}")
        height, width = self._y_size(header)
        least_bits = self.entropy.num_symbols(height, width) * self._least_bits
        num_pixels = math.prod(padded_size(header.width, header.height, self.info.multiple))
        if num_pixels > MAX_PIXELS or least_bits > 8 * len(payload) + 64:
            raise CorruptStreamError(f"{header.width} x {header.height} pixels cannot come from {len(payload)} bytes")
        return header, bytes(payload)

    def _header(self, width: int, height: int, quality: int, symbols: Sequence[np.ndarray]) -> Header:
        bare = Header(
            codec=self.info.name, arithmetic="exact-1", model=self.info.model or "",
            quality=quality, width=width, height=height, checksum=0,
        )  # fmt: skip
        return replace(bare, checksum=symbols_checksum(bare, *symbols))

    def _y_size(self, header: Header) -> tuple[int, int]:
        width, height = padded_size(header.width, header.height, self.info.multiple)
        factor = self.model.config.y_factor
        return height // factor, width // factor

    def _run(self, sizes: Sequence[tuple[int, ...]], work: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
        """Results of `work` on the photos whose (height, width) are `sizes`, in their order; `work` gets a group of indices."""
        heights_widths = [(height, width) for height, width in sizes]
        groups = batches(heights_widths, multiple=self.info.multiple, max_pixels=self.max_batch_pixels)
        shared: list[list[int]] = []
        alone: list[list[int]] = []
        for group in groups:
            height, width = heights_widths[group[0]]
            chosen, is_alone = self._plan(*padded_size(width, height, self.info.multiple))
            parts = [group[i : i + chosen.batch] for i in range(0, len(group), chosen.batch)]
            (alone if is_alone else shared).extend(parts)
        # The largest first: they keep a worker longest.
        shared.sort(key=lambda group: -sum(math.prod(sizes[i]) for i in group))
        return self._workers.run(shared, alone, work)

    def _plan(self, width: int, height: int) -> tuple[Plan, bool]:
        """How photos of this padded size go through, and whether alone, with all the memory, since a share is too little."""

        def within(memory_bytes: int) -> Plan:
            return plan(
                self.model.config, self.networks.dtype, width, height,
                memory_bytes=memory_bytes, max_pixels=self.max_batch_pixels,
            )  # fmt: skip

        with suppress(UnsupportedPhotoError):
            shared = within(self._memory_bytes // self._workers.count)
            if shared.tile is None and shared.transformer_tile is None:
                return shared, False
        return within(self._memory_bytes), True


def _workers(device: torch.device, runtime: Runtime) -> Workers:
    return Workers(device, runtime.num_workers, one_thread_each=runtime.compile and device.type == "cpu")
