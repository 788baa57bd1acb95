"""Streams of the official release, in its float arithmetic and under its own CDF tables.

    body, all numbers big-endian uint32
        height of z | width of z | 2 | length of y string | y string | length of z string | z string

    y string   symbols of the steps 0..3, each 1 x C/4 x h x w row-major, in one rANS string
    z string   symbols of z, 1 x Z x h/4 x w/4 row-major

A body holds neither the photo's size, nor a model id, nor a checksum. Inside photoark it is the payload of a container that
names them, with the arithmetic `float`; the checksum is over the symbols of y, then those of z.

Photos are mirrored at the right and at the bottom to reach a multiple of 256, and decoded pixels are truncated to bytes, as the
release does: other padding gives other streams, and rounding other pictures.

Float arithmetic gives the same symbols only on like machines: with other kernels or in another batch, the context model
chooses other CDF rows. So photos go one by one, and the checksum tells a wrong reading from a right one. What should outlive
its machine belongs into an exact stream (`codec.DiTICCodec`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.codecs.base import CodecInfo, Pixels
from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.codec import MAX_PIXELS
from pipeline.codecs.ditic.exact import SYMBOL_LIMIT, Symbols, cdf_tables, z_rows
from pipeline.codecs.ditic.latent_codec import LatentCodec
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.packing import Packing
from pipeline.entropy import container
from pipeline.entropy.decoder import RansDecoder
from pipeline.entropy.encoder import encode_symbols
from pipeline.errors import CorruptStreamError
from pipeline.pixels.padding import crop, mirror, padded_size

ARITHMETIC = "float"
NUM_STRINGS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The release's file, taken apart."""

    z_height: int
    z_width: int
    y_string: bytes
    z_string: bytes

    def to_bytes(self) -> bytes:
        """The file."""
        head = struct.pack(">3I", self.z_height, self.z_width, NUM_STRINGS)
        return head + b"".join(struct.pack(">I", len(string)) + string for string in (self.y_string, self.z_string))

    @classmethod
    def from_bytes(cls, data: bytes) -> Body:
        """Inverse of `to_bytes`.

        Raises:
            CorruptStreamError: cut short, too long, of no size, or of another number of strings.
        """
        if len(data) < 12:
            raise CorruptStreamError("the body is cut short")
        z_height, z_width, num_strings = struct.unpack_from(">3I", data)
        if num_strings != NUM_STRINGS or not z_height or not z_width:
            raise CorruptStreamError(f"no body of the release: {num_strings} strings, z of {z_height} x {z_width}")
        strings, offset = [], 12
        for _ in range(NUM_STRINGS):
            start = offset + 4
            length = int.from_bytes(data[offset:start], "big")
            offset = start + length
            if offset > len(data):
                raise CorruptStreamError("the body is cut short")
            strings.append(bytes(data[start:offset]))
        if offset != len(data):
            raise CorruptStreamError("the body goes on after its last string")
        return cls(z_height=z_height, z_width=z_width, y_string=strings[0], z_string=strings[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """What one body says."""

    y_hat: Tensor  # 1 x C x h x w
    scales: Tensor  # 1 x C x h x w
    y_symbols: Symbols  # steps 0..3, each 1 x C/4 x h x w, flattened
    z_symbols: Symbols  # 1 x Z x h/4 x w/4, flattened


class FloatEntropyModel:
    """A float `LatentCodec` as an entropy coder, one photo at a time."""

    def __init__(self, codec: LatentCodec, *, device: str = "cpu") -> None:
        """Bring `codec`, which must be on the CPU, to `device`; its CDF tables are used as they are.

        Raises:
            ValueError: they are no distributions.
        """
        self.tables = cdf_tables(codec)
        self.codec = codec.to(device)
        self.thresholds: Tensor = codec.gaussian_conditional.scale_table[:-1]
        self.medians = codec.z_medians().view(1, -1, 1, 1)
        self._least_bits = self.tables.least_bits

    def encode(self, y: Tensor, z: Tensor) -> tuple[Body, Coded]:
        """The body of one photo.

        Args:
            y: 1 x C x h x w, float32.
            z: 1 x Z x h/4 x w/4, float32.
        """
        z_symbols = _rounded(z - self.medians)
        symbols: list[Symbols] = []
        rows: list[Symbols] = []

        def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
            step = _rounded(Packing(y).pack(y, k) - mean)
            symbols.append(_flat(step))
            rows.append(self._rows(scale))
            return step

        y_hat, scales = self._run(z_symbols, code)
        coded = Coded(y_hat=y_hat, scales=scales, y_symbols=np.concatenate(symbols), z_symbols=_flat(z_symbols))
        body = Body(
            z_height=z.shape[2],
            z_width=z.shape[3],
            y_string=encode_symbols(coded.y_symbols, np.concatenate(rows), self.tables),
            z_string=encode_symbols(coded.z_symbols, z_rows(*z.shape[1:]), self.tables),
        )
        return body, coded

    def decode(self, body: Body) -> Coded:
        """Inverse of `encode`.

        Raises:
            CorruptStreamError: a string cannot fill the size that the body names, ends early, or goes on.
        """
        z_size = self.medians.shape[1] * body.z_height * body.z_width
        y_size = self.codec.y_channels * body.z_height * body.z_width * 16
        for size, string in ((z_size, body.z_string), (y_size, body.y_string)):
            if size * self._least_bits > 8 * len(string) + 64:
                raise CorruptStreamError(f"{size} symbols cannot come from {len(string)} bytes")
        z_decoder, y_decoder = (RansDecoder(string, self.tables) for string in (body.z_string, body.y_string))
        z_symbols = z_decoder.decode(z_rows(self.medians.shape[1], body.z_height, body.z_width))
        z_decoder.finish()
        symbols: list[Symbols] = []

        def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
            symbols.append(y_decoder.decode(self._rows(scale)))
            return torch.from_numpy(symbols[-1]).to(mean).view(mean.shape)

        shape = (1, -1, body.z_height, body.z_width)
        y_hat, scales = self._run(torch.from_numpy(z_symbols).to(self.medians).view(shape), code)
        y_decoder.finish()
        return Coded(y_hat=y_hat, scales=scales, y_symbols=np.concatenate(symbols), z_symbols=z_symbols)

    def _run(self, z_symbols: Tensor, code: Callable[[int, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        scales: list[Tensor] = []

        def coded(k: int, mean: Tensor, scale: Tensor) -> Tensor:
            scales.append(scale)
            return code(k, mean, scale)

        base = self.codec.hyper_synthesis(z_symbols + self.medians)
        y_hat = self.codec.context_steps(base, coded, base.new_zeros(1, 1, 1, 1))
        return y_hat.contiguous(), Packing(y_hat).unpack(scales).contiguous()

    def _rows(self, scale: Tensor) -> Symbols:
        bounded = self.codec.gaussian_conditional.lower_bound_scale(scale)
        return _flat(torch.bucketize(bounded.contiguous(), self.thresholds))


class ReleaseCodec:
    """Imported weights of the release, for its own streams."""

    def __init__(self, model: DiTIC, fingerprint: str, *, device: str = "cpu") -> None:
        """Bring `model`, which must be on the CPU, to `device`."""
        self.entropy = FloatEntropyModel(model.codec, device=device)
        self.model = model.to(device)
        self.device = torch.device(device)
        self._gain = torch.ones(1, 1, 1, 1, device=self.device)
        config = model.config
        self.info = CodecInfo(name=config.name, model=fingerprint, multiple=config.multiple, generative=True)

    @classmethod
    def load(cls, weights: Path, *, device: str = "cpu") -> ReleaseCodec:
        """Load what `photoark import-weights` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or not imported from the release.
        """
        return cls(*checkpoint.load_float(weights), device=device)

    def at(self, quality: int | None) -> ReleaseCodec:
        """See `Codec.at`: the release has a file of weights for each of its rates."""
        self.model.config.check_quality(quality)
        return self

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """One container a photo; see `Codec.encode`."""
        streams = []
        for image in images:
            body, coded = self._encode(image)
            streams.append(container.pack(self._header(image.shape[1], image.shape[0], coded), body.to_bytes()))
        return streams

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """Inverse of `encode`; see `Codec.decode`."""
        images = []
        for stream in streams:
            header, payload = container.unpack(stream)
            container.check_kind(header, codec=self.info.name, model=self.info.model, arithmetic=ARITHMETIC)
            coded = self._decode(payload, header.width, header.height)
            if self._header(header.width, header.height, coded).checksum != header.checksum:
                raise CorruptStreamError(
                    "the symbols do not match their checksum: the stream is damaged, or this machine's float arithmetic "
                    "is not that of the one which made it"
                )
            images.append(self._render(coded, header.width, header.height))
        return images

    def encode_body(self, image: Pixels) -> bytes:
        """A file as the release writes it, bare: who reads it must know the photo's size and the weights."""
        return self._encode(image)[0].to_bytes()

    def decode_body(self, data: bytes, *, width: int, height: int) -> Pixels:
        """A file of the release, of a photo of width x height pixels.

        Raises:
            CorruptStreamError: malformed, or of another size. Nothing tells a wrong reading from a right one.
        """
        return self._render(self._decode(data, width, height), width, height)

    def wrap(self, data: bytes, *, width: int, height: int) -> bytes:
        """Container around a file of the release, as `decode` takes it; the file is read once, for the checksum.

        Raises:
            CorruptStreamError: malformed, or of another size.
        """
        return container.pack(self._header(width, height, self._decode(data, width, height)), data)

    @torch.inference_mode()
    def _encode(self, image: Pixels) -> tuple[Body, Coded]:
        padded = torch.from_numpy(mirror(image, self.info.multiple)).to(self.device)
        # Channels first in memory, as in the release: convolutions round by the layout of what they read.
        x = padded.permute(2, 0, 1)[None].float().div(127.5).sub(1).contiguous()
        return self.entropy.encode(*self.model.codec.analyse(*self.model.analyse(x), self._gain))

    @torch.inference_mode()
    def _decode(self, data: bytes, width: int, height: int) -> Coded:
        body = Body.from_bytes(data)
        size = (body.z_width * self.info.multiple, body.z_height * self.info.multiple)
        if padded_size(width, height, self.info.multiple) != size or width * height > MAX_PIXELS:
            raise CorruptStreamError(f"the body is of a photo padded to {size[0]} x {size[1]}, not of {width} x {height}")
        return self.entropy.decode(body)

    @torch.inference_mode()
    def _render(self, coded: Coded, width: int, height: int) -> Pixels:
        x0 = self.model.denoise(*self.model.steer(coded.y_hat, coded.scales, self._gain))
        pixels = self.model.render(x0)[0].clamp(-1, 1).add(1).mul(127.5).to(torch.uint8)
        return crop(pixels.permute(1, 2, 0).cpu().numpy(), width, height)

    def _header(self, width: int, height: int, coded: Coded) -> container.Header:
        bare = container.Header(
            codec=self.info.name, arithmetic=ARITHMETIC, model=self.info.model or "",
            quality=1, width=width, height=height, checksum=0,
        )  # fmt: skip
        return replace(bare, checksum=container.symbols_checksum(bare, coded.y_symbols, coded.z_symbols))


def _rounded(values: Tensor) -> Tensor:
    return torch.round(values).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)


def _flat(values: Tensor) -> Symbols:
    return values.to(torch.int32).contiguous().flatten().cpu().numpy()
