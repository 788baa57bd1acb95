"""How a codec runs changes its speed and its memory: the integers in a stream never, the photo not visibly."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.codecs.ditic import networks
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.planner import Plan, footprint, measured, plan
from pipeline.codecs.neural.runtime import Runtime
from pipeline.errors import SettingError, UnsupportedPhotoError
from pipeline.pixels.formats.reader import read_pixels
from pipeline.quality.metrics import measure

PHOTOS = Path(__file__).parents[3] / "photos"
GIB = 2**30
FP32 = Runtime(dtype="float32")


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    return read_pixels((PHOTOS / "bridge.jpg").read_bytes())[:512, :768].copy()


@pytest.fixture(scope="module")
def plain() -> DiTICCodec:
    return DiTICCodec.load(runtime=FP32)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return measure(a, b).psnr


@pytest.mark.parametrize(
    ("runtime", "decibels"),
    [(Runtime(dtype="bfloat16"), 0.1), (Runtime(dtype="float32", int8_weights=True), 0.5)],
    ids=["bfloat16", "int8"],
)
def test_narrow_numbers_cost_little(runtime: Runtime, decibels: float, plain: DiTICCodec, photo: NDArray[np.uint8]) -> None:
    codec = DiTICCodec.load(runtime=runtime)
    (stream,) = plain.encode([photo])
    expected, found = plain.decode([stream])[0], codec.decode([stream])[0]
    assert abs(psnr(photo, found) - psnr(photo, expected)) < decibels
    assert psnr(expected, found) > 35
    assert torch.equal(codec.latents([stream])[0], plain.latents([stream])[0])
    # And as an encoder: another rounding of y. This photo has 38 dB, where that shows most; at 30 dB it is a tenth.
    (own,) = codec.encode([photo])
    assert abs(len(own) / len(stream) - 1) < 0.02
    assert psnr(photo, plain.decode([own])[0]) > psnr(photo, expected) - 2 * decibels


def test_a_photo_in_tiles_is_the_photo_without_a_seam(plain: DiTICCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = read_pixels((PHOTOS / "aitzgorri.jpg").read_bytes())
    (stream,) = plain.encode([photo])
    whole = plain.decode([stream])[0].astype(int)
    monkeypatch.setattr("pipeline.codecs.ditic.codec.plan", lambda *_, **__: Plan(batch=1, tile=32, transformer_tile=24))
    tiled = plain.decode([stream])[0].astype(int)
    assert psnr(whole.astype(np.uint8), tiled.astype(np.uint8)) > 40
    # A seam is a jump across a tile's border that the whole photo has not: tiles of 512 pixels that share 128.
    difference = tiled - whole
    jumps = np.abs(np.diff(difference, axis=1)).mean(axis=(0, 2))
    assert jumps.max() < 3 * jumps.mean() + 0.5
    (own,) = plain.encode([photo])
    assert abs(len(own) / len(stream) - 1) < 0.02
    monkeypatch.undo()
    assert abs(psnr(photo, plain.decode([own])[0]) - psnr(photo, whole.astype(np.uint8))) < 0.1


def test_little_memory_means_tiles_and_too_little_an_error_that_says_so(
    tiny_weights: Path, photos: list[NDArray[np.uint8]]
) -> None:
    photo = np.tile(photos[0], (8, 8, 1))
    roomy = DiTICCodec.load(tiny_weights, runtime=FP32)
    tight = DiTICCodec.load(tiny_weights, runtime=Runtime(dtype="float32", memory_bytes=45_000_000))
    (stream,) = roomy.encode([photo])
    assert tight._plan(2432, 1664)[0].tile is not None
    assert roomy._plan(2432, 1664)[0].tile is None
    assert torch.equal(tight.latents([stream])[0], roomy.latents([stream])[0])
    assert psnr(roomy.decode([stream])[0], tight.decode([stream])[0]) > 30
    with pytest.raises(UnsupportedPhotoError, match="GiB"):
        DiTICCodec.load(tiny_weights, runtime=Runtime(memory_bytes=1000)).encode([photo])


@pytest.mark.parametrize(
    ("config", "memory_gib", "dtype"),
    [
        (DiTICConfig.full(), 16 - 2.2, torch.bfloat16),
        (DiTICConfig.small(), 16, torch.bfloat16),
        (DiTICConfig.small(), 8, torch.float32),
        (DiTICConfig.full(), 8 - 1.6, torch.bfloat16),
    ],
    ids=["full-16GB", "small-16GB", "small-8GB", "full-int8-8GB"],
)
def test_200_megapixels_find_a_plan(config: DiTICConfig, memory_gib: float, dtype: torch.dtype) -> None:
    memory_bytes = int(0.75 * memory_gib * GIB)
    chosen = plan(config, dtype, 16384, 12288, memory_bytes=memory_bytes, max_pixels=16_000_000)
    assert chosen.batch == 1
    assert (chosen.tile is None) == (memory_gib == 16)
    more = plan(config, dtype, 16384, 12288, memory_bytes=400 * GIB * 8, max_pixels=16_000_000)
    assert more.tile is None
    needs = footprint(config, dtype)
    side = chosen.tile * config.autoencoder.factor if chosen.tile else math.isqrt(16384 * 12288)
    assert max(needs.analyse, needs.render) * side**2 <= memory_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_known_of_the_shipped_model_is_what_is_measured(dtype: torch.dtype) -> None:
    known, found = asdict(footprint(DiTICConfig.small(), dtype)), asdict(measured(DiTICConfig.small(), dtype))
    assert known == pytest.approx(found, rel=1e-3)


def test_small_photos_share_a_batch() -> None:
    chosen = plan(DiTICConfig.full(), torch.bfloat16, 512, 512, memory_bytes=80 * GIB, max_pixels=16_000_000)
    assert chosen == Plan(batch=61, tile=None, transformer_tile=None)


def test_compiled_kernels_give_the_same_photo_and_stop_at_so_many_shapes(
    tiny_weights: Path, photos: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MAX_COMPILED_SHAPES", 1)
    plain = DiTICCodec.load(tiny_weights, runtime=FP32)
    fast = DiTICCodec.load(tiny_weights, runtime=Runtime(dtype="float32", compile=True, num_workers=1))
    small, large = photos[1], np.tile(photos[0], (2, 2, 1))
    for photo in (small, large):
        (stream,) = plain.encode([photo])
        assert torch.equal(fast.latents([stream])[0], plain.latents([stream])[0])
        difference = fast.decode([stream])[0].astype(int) - plain.decode([stream])[0]
        assert np.abs(difference).max() <= 2
    assert isinstance(fast.networks._render, networks.Compiled)
    assert len(fast.networks._render._shapes) == 1


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_workers_change_nothing_and_keep_the_order(
    num_workers: int, tiny_weights: Path, photos: list[NDArray[np.uint8]]
) -> None:
    plain = DiTICCodec.load(tiny_weights, runtime=Runtime(dtype="float32", num_workers=1))
    codec = DiTICCodec.load(tiny_weights, runtime=Runtime(dtype="float32", num_workers=num_workers))
    many = [*photos, *photos[::-1], np.tile(photos[0], (3, 3, 1))]
    streams = codec.encode(many)
    assert [image.shape for image in codec.decode(streams)] == [photo.shape for photo in many]
    assert streams[: len(photos)] == streams[len(photos) : -1][::-1]
    digests = [latent.numpy().tobytes() for latent in plain.latents(streams)]
    assert [latent.numpy().tobytes() for latent in codec.latents(streams)] == digests


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(SettingError, match="float8"):
        Runtime(dtype="float8")
    with pytest.raises(SettingError, match="memory"):
        Runtime(memory_bytes=0)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # the compiler's advice; exact streams forbid it
def test_half_precision_on_cuda_is_the_same_photo(plain: DiTICCodec, photo: NDArray[np.uint8]) -> None:
    codec = DiTICCodec.load(device="cuda", runtime=Runtime(compile=True))
    (stream,) = codec.encode([photo])
    assert abs(psnr(photo, codec.decode([stream])[0]) - psnr(photo, plain.decode([stream])[0])) < 0.1
