"""What every codec of the registry must do."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.codecs.base import Codec
from pipeline.codecs.registry import CodecOptions, codec_names, decoder_for, get_codec, is_generative
from pipeline.errors import PhotoError, SettingError, StreamError, UnknownModelError
from pipeline.pixels.formats.reader import read_pixels

# `ditic` has no weights of its own here; tests/pipeline/training/test_import_weights.py makes some and asks the same of it.
PIXEL_CODECS = [name for name in codec_names() if name not in ("original", "ditic")]


@pytest.fixture(scope="module", params=PIXEL_CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    return get_codec(request.param)


@pytest.fixture(scope="module")
def photo(photo_files: dict[str, bytes]) -> np.ndarray:
    return read_pixels(photo_files["bridge.jpg"])[100:420, 200:700]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (200, 120)])
def test_any_size_comes_back(codec: Codec, photo: np.ndarray, size: tuple[int, int]) -> None:
    image = np.ascontiguousarray(photo[: size[0], : size[1]])
    (decoded,) = codec.decode(codec.encode([image]))
    assert decoded.shape == image.shape
    assert decoded.dtype == np.uint8


def test_a_real_photo_is_recognisable_and_smaller(codec: Codec, photo: np.ndarray) -> None:
    (stream,) = codec.encode([photo])
    (decoded,) = codec.decode([stream])
    psnr = 10 * np.log10(255**2 / np.square(decoded.astype(float) - photo).mean())
    assert psnr > (18 if codec.info.generative else 28)
    assert 8 * len(stream) / (photo.shape[0] * photo.shape[1]) < 3


def test_what_is_generative_is_known_without_making_the_codec(codec: Codec) -> None:
    assert is_generative(codec.info.name) == codec.info.generative


def test_a_batch_gives_what_each_photo_gives_alone(codec: Codec, photo: np.ndarray) -> None:
    images = [photo[:128, :128], photo[:50, :200], photo[128:256, :128]]
    streams = codec.encode(images)
    assert [d.shape for d in codec.decode(streams)] == [i.shape for i in images]
    for stream, image in zip(streams, images, strict=True):
        assert codec.decode([stream])[0].shape == image.shape


def test_damaged_streams_are_typed_errors(codec: Codec, photo: np.ndarray) -> None:
    (stream,) = codec.encode([photo[:64, :64]])
    for damaged in (b"", b"garbage", stream[: len(stream) // 3]):
        with pytest.raises(StreamError):
            codec.decode([damaged])


def test_no_photos_are_no_streams(codec: Codec) -> None:
    assert codec.encode([]) == []
    assert codec.decode([]) == []


def test_original_takes_files(photo_files: dict[str, bytes]) -> None:
    codec = get_codec("original")
    assert codec.info.takes_files
    with pytest.raises(PhotoError):
        codec.encode([np.zeros((1, 1, 3), np.uint8)])
    assert codec.decode([photo_files["bridge.jpg"]])[0].shape == (720, 1280, 3)


def test_wrong_settings_are_told() -> None:
    with pytest.raises(SettingError, match="choose one of"):
        get_codec("jpeg2000")
    with pytest.raises(SettingError, match="between 1 and 100"):
        get_codec("avif", CodecOptions(quality=101))
    with pytest.raises(SettingError, match="1 to 4"):
        get_codec("ditic-small", CodecOptions(quality=5))
    with pytest.raises(UnknownModelError, match="update"):
        decoder_for("sodec", None)
    with pytest.raises(UnknownModelError, match="weights"):
        decoder_for("ditic-small", "0" * 16)
