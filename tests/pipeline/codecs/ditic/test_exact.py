"""One stream, one picture: the same integers whatever the threads, the kernels, the batch or the memory layout."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.header import SHIPPED
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.neural.runtime import Runtime
from pipeline.entropy.container import pack, unpack
from pipeline.entropy.fixed_point import require_exact_float32
from pipeline.errors import CheckpointError, CorruptStreamError, SettingError, StreamError, UnknownModelError
from pipeline.pixels.formats.reader import read_pixels
from pipeline.quality.metrics import measure

GOLDEN = Path(__file__).parents[3] / "golden"
PHOTOS = Path(__file__).parents[3] / "photos"
BACKENDS: Any = torch.backends  # whose types lack what torch adds at run time


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def digest(latents: list[torch.Tensor]) -> list[str]:
    return [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in latents]


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Products of float32 as a fresh process has them, afterwards."""
    yield
    torch.set_float32_matmul_precision("highest")
    for setting in (BACKENDS, BACKENDS.mkldnn.matmul, BACKENDS.cuda.matmul):
        setting.fp32_precision = "none"


@pytest.fixture(scope="module", params=["tiny", "small"])
def codec(request: pytest.FixtureRequest) -> DiTICCodec:
    return request.getfixturevalue("tiny") if request.param == "tiny" else DiTICCodec.load()


def test_latents_do_not_depend_on_threads_kernels_batch_or_layout(codec: DiTICCodec, photos: list[NDArray[np.uint8]]) -> None:
    eight = [np.roll(photos[0], 7 * i, axis=1) for i in range(8)]
    with num_threads(2):
        streams = codec.encode(eight)
        expected = digest(codec.latents(streams))
    assert len(set(expected)) == 8
    with num_threads(1):
        assert digest(codec.latents(streams)) == expected
        assert [digest(codec.latents([s]))[0] for s in streams] == expected
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells of Intel GPUs that it was not built for
        with torch.backends.mkldnn.flags(enabled=False):
            assert not torch.backends.mkldnn.enabled
            assert digest(codec.latents(streams)) == expected
    codec.model.to(memory_format=torch.contiguous_format)
    try:
        assert digest(codec.latents(streams)) == expected
    finally:
        codec.model.to(memory_format=torch.channels_last)


def test_the_fast_integers_are_those_of_the_reference(
    codec: DiTICCodec, tiny_weights: Path, photos: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled loops and float32 against float64, one operation after the other; whole, and in strips of rows."""
    weights = tiny_weights if codec.info.name == "ditic-tiny" else None
    reference = DiTICCodec.load(weights, runtime=Runtime(fused=False))
    streams = codec.encode([*photos, np.tile(photos[0], (3, 3, 1))])
    expected = digest(reference.latents(streams))
    assert digest(codec.latents(streams)) == expected
    monkeypatch.setattr("pipeline.codecs.ditic.packing.STRIP_POSITIONS", 64)
    assert digest(codec.latents(streams)) == expected


@pytest.mark.parametrize(
    ("precision", "lower"),
    [
        ("bf16", lambda: torch.set_float32_matmul_precision("medium")),
        ("bf16", lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16")),
        ("tf32", lambda: setattr(BACKENDS, "fp32_precision", "tf32")),
    ],
    ids=["for all, as before torch 2.9", "of the CPU", "for all"],
)
def test_products_in_fewer_bits_are_refused(
    tiny: DiTICCodec, photos: list[NDArray[np.uint8]], full_precision: None, precision: str, lower: Callable[[], None]
) -> None:
    (stream,) = tiny.encode(photos[:1])
    expected = digest(tiny.latents([stream]))
    lower()
    message = f'in {precision}: set torch.backends.mkldnn.matmul.fp32_precision = "ieee"'
    with pytest.raises(SettingError, match=message):
        tiny.encode(photos[:1])
    with pytest.raises(SettingError, match=message):
        tiny.latents([stream])
    BACKENDS.mkldnn.matmul.fp32_precision = "ieee"  # as the message says
    assert digest(tiny.latents([stream])) == expected


def test_fewer_bits_on_a_gpu_concern_the_gpu_alone(full_precision: None) -> None:
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    require_exact_float32(torch.device("cpu"))
    with pytest.raises(SettingError, match=r"torch.backends.cuda.matmul.fp32_precision"):
        require_exact_float32(torch.device("cuda"))


def test_one_set_of_weights_codes_at_four_rates_and_reads_them_all() -> None:
    photo = read_pixels((PHOTOS / "bridge.jpg").read_bytes())[200:456, 300:684].copy()
    codec = DiTICCodec.load()
    streams = [DiTICCodec.load(quality=quality).encode([photo])[0] for quality in (1, 2, 3, 4)]
    assert [unpack(stream)[0].quality for stream in streams] == [1, 2, 3, 4]
    assert codec.encode([photo]) == streams[3:]
    sizes = [len(stream) for stream in streams]
    assert all(2 * a > b > 1.1 * a for a, b in pairwise(sizes)), sizes
    decoded = codec.decode(streams)  # one batch, four qualities
    scores = [measure(photo, image).psnr for image in decoded]
    assert scores == sorted(scores)
    assert scores[3] > scores[0] + 2
    for stream, image in zip(streams, decoded, strict=True):
        (alone,) = codec.decode([stream])
        assert np.abs(alone.astype(int) - image).max() <= 2


def test_a_quality_that_the_weights_lack_is_refused(tiny: DiTICCodec) -> None:
    with pytest.raises(SettingError, match="1 to 4"):
        DiTICCodec.load(quality=5)
    (stream,) = tiny.encode([np.zeros((8, 8, 3), np.uint8)])
    header, payload = unpack(stream)
    with pytest.raises(CorruptStreamError, match="quality 3 of 1"):
        tiny.decode([pack(replace(header, quality=3), bytes(payload))])


@pytest.mark.gpu
def test_latents_are_the_same_on_cuda(tiny_weights: Path, tiny: DiTICCodec, photos: list[NDArray[np.uint8]]) -> None:
    streams = tiny.encode(photos)
    on_cuda = DiTICCodec.load(tiny_weights, device="cuda")
    assert digest([t.cpu() for t in on_cuda.latents(streams)]) == digest(tiny.latents(streams))


def test_a_stream_made_elsewhere_still_decodes_to_the_same_integers() -> None:
    """Golden: the stream was made when the weights were frozen; any machine must read these very latents from it."""
    codec = DiTICCodec.load()
    stream = (GOLDEN / "ditic_small.stream").read_bytes()
    assert digest(codec.latents([stream])) == (GOLDEN / "ditic_small.sha256").read_text().split()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (127, 129), (128, 128)])
def test_any_size_comes_back_exactly(tiny: DiTICCodec, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    (decoded,) = tiny.decode(tiny.encode([image]))
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8


def test_a_batch_of_mixed_sizes_gives_what_each_photo_gives_alone(tiny: DiTICCodec, photos: list[NDArray[np.uint8]]) -> None:
    streams = tiny.encode(photos)
    together = tiny.latents(streams)
    assert all(torch.equal(tiny.latents([s])[0], t) for s, t in zip(streams, together, strict=True))


def test_the_container_costs_at_most_24_bytes(tiny: DiTICCodec, photos: list[NDArray[np.uint8]]) -> None:
    for stream in tiny.encode(photos):
        _, payload = unpack(stream)
        assert len(stream) - len(payload) <= 24


def test_damage_is_an_error_and_never_a_wrong_picture(tiny: DiTICCodec, photos: list[NDArray[np.uint8]]) -> None:
    (stream,) = tiny.encode(photos[:1])
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(stream)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        with pytest.raises(StreamError):
            tiny.latents([bytes(damaged)])
    for length in (0, 1, 10, 23, len(stream) // 2, len(stream) - 1):
        with pytest.raises(StreamError):
            tiny.latents([stream[:length]])


def test_an_absurd_size_is_refused_before_anything_is_allocated(tiny: DiTICCodec) -> None:
    (stream,) = tiny.encode([np.zeros((8, 8, 3), np.uint8)])
    header, payload = unpack(stream)
    with pytest.raises(CorruptStreamError, match="cannot come from"):
        tiny.decode([pack(replace(header, width=2**23, height=2**23), bytes(payload))])


def test_other_weights_refuse_the_stream(tiny: DiTICCodec) -> None:
    stream = DiTICCodec.load().encode([np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(UnknownModelError, match="weights"):
        tiny.decode(stream)


def test_a_damaged_checkpoint_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    data = bytearray(tiny_weights.read_bytes())
    data[-100] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(data)
    with pytest.raises(CheckpointError, match="fingerprint"):
        checkpoint.load(damaged)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("missing", ["cdf.starts", "scale_bias", "g_c.block.1.bias"])
def test_a_checkpoint_that_lacks_a_tensor_is_refused(missing: str, tmp_path: Path) -> None:
    with safe_open(SHIPPED, "pt") as file:
        specs = json.loads(file.metadata()["specs"])
        names = [name for name in file.keys() if name.startswith("exact.")]  # noqa: SIM118 (not a dict)
        tensors = {name.removeprefix("exact."): file.get_tensor(name) for name in names}
    del tensors[missing]
    path = tmp_path / "less.safetensors"
    checkpoint.save(path, DiTIC(DiTICConfig.small()), specs, tensors, {})
    with pytest.raises(CheckpointError, match=missing):
        checkpoint.load(path)
