"""Streams of the official release: byte for byte what its own coder writes, and nothing accepted that it could not have."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.ans import BufferedRansEncoder
from numpy.typing import NDArray

from pipeline.codecs.base import Codec
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.latent_codec import LatentCodec
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.release import Body, FloatEntropyModel, ReleaseCodec
from pipeline.entropy.container import unpack
from pipeline.errors import CheckpointError, CorruptStreamError, StreamError, UnknownModelError
from pipeline.pixels.padding import mirror
from pipeline.training.freeze import freeze_model

# As the format is published: at step k, group g is coded at this position of each 2 x 2 cell.
POSITIONS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))
HEIGHT, WIDTH = 4, 8


@dataclass
class FullWidth:
    """A latent codec of the published width with random weights, and latents for it."""

    codec: LatentCodec
    y: torch.Tensor
    z: torch.Tensor


@pytest.fixture(scope="module")
def full_width() -> FullWidth:
    torch.manual_seed(3)
    codec = LatentCodec(replace(DiTICConfig.full(), latent=replace(DiTICConfig.full().latent, bottleneck_cdf_length=0))).eval()
    with torch.inference_mode():
        for k in range(4):
            # Scales of many sizes, as a trained model has them.
            codec.get_parameter(f"adapter_out.{k}.branch1.4.bias")[320:] = torch.exp(torch.empty(320).uniform_(-2, 2))
        codec.entropy_bottleneck.quantiles[:, 0, 1] += torch.empty(160).uniform_(-0.4, 0.4)
        codec.entropy_bottleneck.update(force=True)
        codec.gaussian_conditional.update()
        return FullWidth(codec, 3 * torch.randn(1, 320, HEIGHT, WIDTH), 4 * torch.randn(1, 160, HEIGHT // 4, WIDTH // 4))


def take(x: torch.Tensor, k: int) -> torch.Tensor:
    """1 x 320 x h x w -> 1 x 80 x h x w: what step k codes, position by position."""
    out = torch.empty(1, x.shape[1] // 4, *x.shape[2:])
    for group, position in enumerate(POSITIONS[k]):
        row, column = divmod(position, 2)
        channels = slice(group * out.shape[1], (group + 1) * out.shape[1])
        out[:, :, row::2, column::2] = x[:, channels, row::2, column::2]
    return out


def put(packed: torch.Tensor, k: int) -> torch.Tensor:
    """Inverse of `take`, zero elsewhere."""
    width = packed.shape[1]
    out = torch.zeros(1, 4 * width, *packed.shape[2:])
    for group, position in enumerate(POSITIONS[k]):
        row, column = divmod(position, 2)
        out[:, group * width : (group + 1) * width, row::2, column::2] = packed[:, :, row::2, column::2]
    return out


@torch.inference_mode()
def reference(full: FullWidth) -> tuple[bytes, torch.Tensor, list[int]]:
    """Body, y_hat and y symbols, by compressai's classes and coder and the published order alone."""
    codec, gaussian = full.codec, full.codec.gaussian_conditional
    (z_string,) = codec.entropy_bottleneck.compress(full.z)
    base = codec.h_s(codec.entropy_bottleneck.decompress([z_string], full.z.shape[2:]))
    symbols: list[int] = []
    indexes: list[int] = []
    y_hat = torch.zeros_like(full.y)
    for k in range(4):
        means, scales = codec.adapter_out[k](codec.g_c(codec.adapter_in[k](base))).chunk(2, 1)
        mean = take(means, k)
        step = gaussian.quantize(take(full.y, k), "symbols", mean)
        symbols += step.flatten().tolist()
        indexes += gaussian.build_indexes(take(scales, k)).flatten().tolist()
        y_k = put(gaussian.dequantize(step, mean), k)
        mask = put(torch.ones_like(mean), k)
        y_k = y_k + 0.5 * torch.tanh(codec.LRP[k](torch.cat((y_k, base), 1)) * mask)
        base = base * (1 - mask) + y_k
        y_hat += y_k
    encoder = BufferedRansEncoder()
    tables = (gaussian.quantized_cdf.tolist(), gaussian.cdf_length.tolist(), gaussian.offset.tolist())
    encoder.encode_with_indexes(symbols, indexes, *tables)
    y_string = encoder.flush()
    body = struct.pack(">III", HEIGHT // 4, WIDTH // 4, 2)
    body += struct.pack(">I", len(y_string)) + y_string + struct.pack(">I", len(z_string)) + z_string
    return body, y_hat, symbols


def test_a_full_width_body_is_byte_for_byte_that_of_compressai(full_width: FullWidth) -> None:
    expected, y_hat, symbols = reference(full_width)
    assert len(set(symbols)) > 20
    with torch.inference_mode():
        body, coded = FloatEntropyModel(full_width.codec).encode(full_width.y, full_width.z)
    assert coded.y_symbols.tolist() == symbols
    assert body.to_bytes() == expected
    assert torch.equal(coded.y_hat, y_hat)


def test_a_full_width_body_is_read_back(full_width: FullWidth) -> None:
    data, y_hat, symbols = reference(full_width)
    with torch.inference_mode():
        coded = FloatEntropyModel(full_width.codec).decode(Body.from_bytes(data))
    assert coded.y_symbols.tolist() == symbols
    assert torch.equal(coded.y_hat, y_hat)
    assert coded.scales.shape == y_hat.shape


def test_the_body_is_laid_out_as_published() -> None:
    body = Body(z_height=3, z_width=258, y_string=b"yyyyy", z_string=b"zz")
    data = b"\0\0\0\x03\0\0\x01\x02\0\0\0\x02\0\0\0\x05yyyyy\0\0\0\x02zz"
    assert body.to_bytes() == data
    assert Body.from_bytes(data) == body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack(">3I", 1, 1, 2),
        struct.pack(">4I", 1, 1, 1, 0),
        struct.pack(">5I", 0, 1, 2, 0, 0),
        struct.pack(">5I", 1, 1, 2, 0, 1),
        struct.pack(">5I", 1, 1, 2, 2**32 - 1, 0),
        struct.pack(">5I", 1, 1, 2, 0, 0) + b"x",
    ],
)
def test_a_malformed_body_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptStreamError):
        Body.from_bytes(data)


@pytest.fixture(scope="module")
def released_weights(tmp_path_factory: pytest.TempPathFactory, photos: list[NDArray[np.uint8]]) -> Path:
    """A tiny model frozen as weights of the release are: with the tables that it carries."""
    torch.manual_seed(11)
    model = DiTIC(DiTICConfig.tiny())
    with torch.no_grad():
        model.codec.g_a.shrink.weight.mul_(5)
        model.codec.entropy_bottleneck.update(force=True)
        model.codec.gaussian_conditional.update()
    width = model.codec.entropy_bottleneck._quantized_cdf.shape[1]
    model.config = replace(model.config, latent=replace(model.config.latent, bottleneck_cdf_length=width))
    path = tmp_path_factory.mktemp("released") / "tiny.safetensors"
    freeze_model(model, path, photos[:2], {}, released=True)
    return path


@pytest.fixture(scope="module")
def codec(released_weights: Path) -> ReleaseCodec:
    return ReleaseCodec.load(released_weights)


def test_it_is_a_codec_and_photos_of_any_size_come_back(codec: ReleaseCodec, photos: list[NDArray[np.uint8]]) -> None:
    as_codec: Codec = codec
    images = [*photos, photos[0][:1, :1], photos[0][:128, :128]]
    streams = as_codec.encode(images)
    decoded = as_codec.decode(streams)
    assert [d.shape for d in decoded] == [i.shape for i in images]
    assert all(d.dtype == np.uint8 for d in decoded)
    header, _ = unpack(streams[0])
    assert (header.arithmetic, header.codec, header.model) == ("float", codec.info.name, codec.info.model)
    assert (header.height, header.width) == photos[0].shape[:2]
    assert codec.encode([]) == codec.decode([]) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 200), (129, 255), (256, 512), (300, 400)])
def test_photos_are_mirrored_as_the_release_does_and_smaller_ones_too(size: tuple[int, int]) -> None:
    height, width = size
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    padded = mirror(photo, 256)
    assert padded.shape[:2] == (-(-height // 256) * 256, -(-width // 256) * 256)
    x = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    if padded.shape[0] < 2 * height and padded.shape[1] < 2 * width:
        expected = torch.nn.functional.pad(x, (0, -width % 256, 0, -height % 256), mode="reflect")
        assert np.array_equal(padded, expected[0].permute(1, 2, 0).byte().numpy())
    # To and fro where one reflection does not reach.
    for axis, side in enumerate(size):
        place = np.arange(padded.shape[axis]) % max(1, 2 * side - 2)
        photo = photo.take(np.minimum(place, (2 * side - 2 - place) % max(1, 2 * side - 2)), axis)
    assert np.array_equal(padded, photo)


@pytest.mark.gpu
def test_photos_come_back_on_cuda(released_weights: Path, photos: list[NDArray[np.uint8]]) -> None:
    codec = ReleaseCodec.load(released_weights, device="cuda")
    assert [d.shape for d in codec.decode(codec.encode(photos))] == [p.shape for p in photos]


def test_a_bare_body_is_the_payload_and_gives_the_same_photo(codec: ReleaseCodec, photos: list[NDArray[np.uint8]]) -> None:
    height, width = photos[0].shape[:2]
    (stream,) = codec.encode(photos[:1])
    body = codec.encode_body(photos[0])
    assert unpack(stream)[1] == body
    assert codec.wrap(body, width=width, height=height) == stream
    assert np.array_equal(codec.decode_body(body, width=width, height=height), codec.decode([stream])[0])
    with pytest.raises(CorruptStreamError, match="not of 999 x 999"):
        codec.decode_body(body, width=999, height=999)


def test_float_and_exact_refuse_each_other(
    codec: ReleaseCodec, released_weights: Path, photos: list[NDArray[np.uint8]]
) -> None:
    exact = DiTICCodec.load(released_weights)
    assert exact.info.model == codec.info.model
    with pytest.raises(UnknownModelError, match="'float' arithmetic"):
        exact.decode(codec.encode(photos[:1]))
    with pytest.raises(UnknownModelError, match="'exact-1' arithmetic"):
        codec.decode(exact.encode(photos[:1]))


def test_other_weights_are_refused(codec: ReleaseCodec, tiny_weights: Path, photos: list[NDArray[np.uint8]]) -> None:
    with pytest.raises(CheckpointError, match="no float entropy path"):
        ReleaseCodec.load(tiny_weights)
    with pytest.raises(UnknownModelError, match="weights"):
        codec.decode(DiTICCodec.load(tiny_weights).encode(photos[:1]))


def test_damage_is_an_error_and_never_a_wrong_picture(codec: ReleaseCodec, photos: list[NDArray[np.uint8]]) -> None:
    (stream,) = codec.encode(photos[1:2])
    rng = np.random.default_rng(2)
    for _ in range(60):
        damaged = bytearray(stream)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        with pytest.raises(StreamError):
            codec.decode([bytes(damaged)])
    for length in (0, 10, 24, 40, len(stream) // 2, len(stream) - 1):
        with pytest.raises(StreamError):
            codec.decode([stream[:length]])


def test_an_absurd_size_is_refused_before_anything_is_allocated(codec: ReleaseCodec) -> None:
    side = 2**20
    body = Body(z_height=side, z_width=side, y_string=b"\0" * 8, z_string=b"\0" * 8)
    with pytest.raises(CorruptStreamError, match="not of"):
        codec.decode_body(body.to_bytes(), width=side * codec.info.multiple, height=side * codec.info.multiple)
    with pytest.raises(CorruptStreamError, match="cannot come from"):
        codec.entropy.decode(body)
