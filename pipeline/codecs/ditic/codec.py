"""DiT-IC as a codec: photos -> exact bitstreams -> photos.

encode: pad -> analyse (float) -> y, z -> exact entropy model -> rANS -> container
decode: container -> rANS and exact entropy model, step by step -> heads, transformer, autoencoder (float) -> crop
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.base import CodecInfo, Pixels
from pipeline.codecs.ditic import checkpoint
from pipeline.entropy.container import Header, pack, symbols_checksum, unpack
from pipeline.entropy.decoder import RansDecoder
from pipeline.entropy.encoder import encode_batch
from pipeline.errors import CorruptStreamError, UnknownModelError
from pipeline.pixels.bucket import batches
from pipeline.pixels.padding import crop, pad, padded_size

MAX_PIXELS = 200_000_000
"""A stream that claims more is refused before anything is allocated."""


class DiTICCodec:
    """A frozen DiT-IC checkpoint on a device."""

    def __init__(self, loaded: checkpoint.Loaded, *, device: str = "cpu", max_batch_pixels: int = 2_000_000) -> None:
        """Wrap a loaded checkpoint.

        Args:
            max_batch_pixels: padded pixels that go through the networks at once; a larger photo goes alone.
        """
        self.model = loaded.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.entropy = loaded.entropy
        self.device = torch.device(device)
        self.max_batch_pixels = max_batch_pixels
        config = loaded.model.config
        self.info = CodecInfo(name=config.name, model=loaded.fingerprint, multiple=config.multiple, generative=True)

    @classmethod
    def load(cls, weights: Path | None = None, *, device: str = "cpu") -> DiTICCodec:
        """Load a frozen checkpoint; without `weights`, the small model that comes with the package.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        return cls(checkpoint.load(weights or checkpoint.SHIPPED, device=device), device=device)

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """One container a photo; see `Codec.encode`."""
        streams: list[bytes] = [b""] * len(images)
        for group in self._groups([image.shape[:2] for image in images]):
            y, z = self._latents([images[i] for i in group])
            coded = self.entropy.encode(y, z)
            payloads = encode_batch(coded, self.entropy.tables, num_threads=_num_threads())
            for i, (symbols, _), payload in zip(group, coded, payloads, strict=True):
                height, width = images[i].shape[:2]
                streams[i] = pack(self._header(width, height, [symbols]), payload)
        return streams

    @torch.inference_mode()
    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """Inverse of `encode`; see `Codec.decode`."""
        opened = [self._open(stream) for stream in streams]
        images: list[Pixels | None] = [None] * len(streams)
        for group in self._groups([(header.height, header.width) for header, _ in opened]):
            for i, image in zip(group, self._decode_group([opened[i] for i in group]), strict=True):
                images[i] = image
        return images  # type: ignore[return-value]

    def latents(self, streams: Sequence[bytes]) -> list[Tensor]:
        """y_hat of each stream, C x h x w float32: the integers that must be the same on every machine."""
        with torch.inference_mode():
            opened = [self._open(stream) for stream in streams]
            result: list[Tensor] = [torch.empty(0)] * len(streams)
            for group in self._groups([(header.height, header.width) for header, _ in opened]):
                y_hat, _ = self._read([opened[i] for i in group])
                for i, latent in zip(group, y_hat, strict=True):
                    result[i] = latent
        return result

    def _latents(self, images: Sequence[Pixels]) -> tuple[Tensor, Tensor]:
        stacked = np.stack([pad(image, self.info.multiple) for image in images])
        x = torch.from_numpy(stacked).to(self.device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        lat, aux = self.model.analyse(x.contiguous(memory_format=torch.channels_last))
        y = self.model.codec.g_a(lat, aux)
        return y, self.model.codec.h_a(y)

    def _decode_group(self, opened: Sequence[tuple[Header, bytes]]) -> list[Pixels]:
        y_hat, scales = self._read(opened)
        memory_format = torch.channels_last
        heads = self.model.codec.heads(
            y_hat.contiguous(memory_format=memory_format), scales.contiguous(memory_format=memory_format)
        )
        x_hat = self.model.render(self.model.denoise(heads))
        pixels = x_hat.add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [crop(p, h.width, h.height) for p, (h, _) in zip(pixels, opened, strict=True)]

    def _read(self, opened: Sequence[tuple[Header, bytes]]) -> tuple[Tensor, Tensor]:
        """y_hat and scales of streams of one padded shape, checked against their checksums."""
        decoders = [RansDecoder(payload, self.entropy.tables) for _, payload in opened]
        height, width = self._y_size(opened[0][0])
        y_hat, scales, symbols = self.entropy.decode(decoders, height, width)
        for decoder, (header, _), parts in zip(decoders, opened, symbols, strict=True):
            decoder.finish()
            if self._header(header.width, header.height, parts).checksum != header.checksum:
                raise CorruptStreamError("the symbols do not match their checksum; restore the archive from a copy")
        return y_hat, scales

    def _open(self, stream: bytes) -> tuple[Header, bytes]:
        header, payload = unpack(stream)
        if header.codec != self.info.name or header.model != self.info.model:
            raise UnknownModelError(
                f"the stream needs {header.codec} with weights {header.model}; loaded is {self.info.name} {self.info.model}"
            )
        if header.arithmetic != "exact-1":
            raise UnknownModelError(f"the stream was made in {header.arithmetic!r} arithmetic; this codec reads exact-1")
        height, width = self._y_size(header)
        # No CDF codes a symbol in fewer bits than this: a size that the payload cannot fill is a lie.
        least_bits = self.entropy.num_symbols(height, width) * self._least_bits
        if header.width * header.height > MAX_PIXELS or least_bits > 8 * len(payload) + 64:
            raise CorruptStreamError(f"{header.width} x {header.height} pixels cannot come from {len(payload)} bytes")
        return header, bytes(payload)

    def _header(self, width: int, height: int, symbols: Sequence[np.ndarray]) -> Header:
        model = self.info.model or ""
        bare = Header(codec=self.info.name, arithmetic="exact-1", model=model, width=width, height=height, checksum=0)
        return Header(
            codec=bare.codec, arithmetic=bare.arithmetic, model=model, width=width, height=height,
            checksum=symbols_checksum(bare, *symbols),
        )  # fmt: skip

    def _y_size(self, header: Header) -> tuple[int, int]:
        width, height = padded_size(header.width, header.height, self.info.multiple)
        factor = self.model.config.y_factor
        return height // factor, width // factor

    def _groups(self, shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
        sizes = [(int(h), int(w)) for h, w in shapes]
        return batches(sizes, multiple=self.info.multiple, max_pixels=self.max_batch_pixels)

    @cached_property
    def _least_bits(self) -> float:
        widths = np.diff(self.entropy.tables.cdfs)
        return -math.log2(int(widths.max()) / 65536) if widths.size else 0.0


def _num_threads() -> int:
    return max(1, len(os.sched_getaffinity(0)))
