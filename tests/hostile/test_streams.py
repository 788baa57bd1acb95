"""Neural bitstreams from anywhere: damaged ones are typed errors, and those made up to pass every check are some picture."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.entropy.container import MAX_SIDE, Header, pack, symbols_checksum, unpack
from pipeline.entropy.decoder import RansDecoder
from pipeline.entropy.encoder import encode_symbols
from pipeline.errors import CorruptStreamError, StreamError, UnsupportedPhotoError
from pipeline.pixels.padding import padded_size
from tests.hostile.mutation import mutated
from tests.pipeline.codecs.ditic.conftest import photos, tiny, tiny_weights

__all__ = ["photos", "tiny", "tiny_weights"]

SIDE = 128
"""What the tiny model pads to: photos up to that cost the least."""


@pytest.fixture(scope="module")
def streams(request: pytest.FixtureRequest) -> list[bytes]:
    codec, pictures = request.getfixturevalue("tiny"), request.getfixturevalue("photos")
    sizes = ((SIDE, SIDE), (40, 64), (64, 17))
    return codec.encode([np.ascontiguousarray(p[:height, :width]) for p, (height, width) in zip(pictures, sizes, strict=False)])


@pytest.mark.soak
def test_mutated_streams_are_pictures_or_typed_errors(request: pytest.FixtureRequest, streams: list[bytes], soak: bool) -> None:
    count = 20_000 if soak else 4_000
    codec: DiTICCodec = request.getfixturevalue("tiny")
    rng = random.Random(20_262)
    before = psutil.Process().memory_info().rss
    ends: Counter[str] = Counter()
    for i in range(count):
        stream = streams[i % len(streams)]
        if i % 100 == 0:
            stream = _forged(codec, stream, rng)
        elif i % 40 == 0:
            stream = mutated(stream, rng, start=20)
        else:
            end = 16 if i % 8 == 0 else 12  # with the size, or without
            stream = mutated(stream[:end], rng) + stream[end:]
        try:
            header, _ = unpack(stream)
            (picture,) = codec.decode([stream])
        except (StreamError, UnsupportedPhotoError) as error:  # the latter says what memory it would take
            ends[type(error).__name__] += 1
            continue
        assert picture.shape == (header.height, header.width, 3)
        ends["read"] += 1
    assert sum(ends.values()) == count
    assert all(ends[end] > count / 200 for end in ("CorruptStreamError", "UnknownModelError", "read")), ends
    assert psutil.Process().memory_info().rss - before < 500 << 20


def test_sizes_that_no_payload_can_fill_allocate_nothing(request: pytest.FixtureRequest, streams: list[bytes]) -> None:
    codec: DiTICCodec = request.getfixturevalue("tiny")
    header, payload = unpack(streams[0])
    before = psutil.Process().memory_info().rss
    for width, height in ((MAX_SIDE, MAX_SIDE), (MAX_SIDE, 1), (20_000, 20_000), (1, MAX_SIDE)):
        for data in (payload, payload[:8], b""):
            with pytest.raises(CorruptStreamError, match="cannot come from"):
                codec.decode([pack(replace(header, width=width, height=height), data)])
    assert psutil.Process().memory_info().rss - before < 50 << 20


@pytest.mark.parametrize("spread", [10.0, 1e3, 1e6])
def test_streams_of_impossible_latents_with_right_checksums_are_pictures(
    spread: float, request: pytest.FixtureRequest, streams: list[bytes]
) -> None:
    codec: DiTICCodec = request.getfixturevalue("tiny")
    header, _ = unpack(streams[0])
    (latent,) = codec.latents(streams[:1])
    channels, height, width = latent.shape
    generator = torch.Generator().manual_seed(5)
    y = spread * torch.randn((4, channels, height, width), generator=generator)
    z = spread * torch.randn((4, codec.entropy.z_medians.shape[1], height // 4, width // 4), generator=generator)
    with torch.inference_mode():
        coded = codec.entropy.encode(y, z, [0] * len(y))
    header = replace(header, quality=1)
    made = [
        pack(replace(header, checksum=symbols_checksum(header, symbols)), encode_symbols(symbols, rows, codec.entropy.tables))
        for symbols, rows in coded
    ]
    assert [picture.shape for picture in codec.decode(made)] == [(SIDE, SIDE, 3)] * len(made)


def _forged(codec: DiTICCodec, stream: bytes, rng: random.Random) -> bytes:
    """Another size of the same symbols, or other last words of the payload, with the checksum that belongs to it."""
    header, payload = unpack(stream)
    if rng.random() < 0.7:
        header = replace(header, width=rng.randrange(1, SIDE + 1), height=rng.randrange(1, SIDE + 1))
    else:
        payload = mutated(payload, rng, start=8)
    with contextlib.suppress(StreamError):  # no symbols, no checksum: it keeps the one that it had
        header = replace(header, checksum=_checksum(codec, header, payload))
    return pack(header, payload)


def _checksum(codec: DiTICCodec, header: Header, payload: bytes) -> int:
    """Of the symbols that `payload` holds, whatever follows them."""
    factor = codec.model.config.y_factor
    width, height = padded_size(header.width, header.height, codec.info.multiple)
    with torch.inference_mode():
        decoders = [RansDecoder(payload, codec.entropy.tables)]
        _, _, (symbols,) = codec.entropy.decode(decoders, [header.quality - 1], height // factor, width // factor)
    return symbols_checksum(header, *symbols)
