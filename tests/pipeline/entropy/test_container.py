"""The container's bytes, spelled out, and what it refuses."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from pipeline.entropy.container import CODEC_IDS, MAX_SIDE, Header, pack, symbols_checksum, unpack
from pipeline.errors import CorruptStreamError, StreamError, UnknownModelError

HEADER = Header(
    codec="ditic-small", arithmetic="exact-1", model="0123456789abcdef", quality=3, width=300, height=5, checksum=0x01020304
)


def test_layout_is_the_documented_one() -> None:
    assert pack(HEADER, b"xyz") == bytes.fromhex("5041 42 11 0123456789abcdef ac02 05 04030201") + b"xyz"


@pytest.mark.parametrize("codec", sorted(CODEC_IDS))
@pytest.mark.parametrize("size", [(1, 1), (127, 128), (16383, 16384), (MAX_SIDE, MAX_SIDE)])
def test_headers_come_back_in_at_most_24_bytes(codec: str, size: tuple[int, int]) -> None:
    header = Header(
        codec=codec, arithmetic="float", model="f" * 16, quality=1, width=size[0], height=size[1], checksum=0xFFFFFFFF
    )
    stream = pack(header, b"payload")
    assert len(stream) - len(b"payload") <= 24
    assert unpack(stream) == (header, b"payload")


def test_checksum_covers_header_and_symbols() -> None:
    symbols = np.array([1, -2, 70000], np.int32)
    prefix = pack(HEADER, b"")[:-4]
    assert symbols_checksum(HEADER, symbols[:1], symbols[1:]) == zlib.crc32(prefix + symbols.astype("<i4").tobytes())


def test_what_is_no_container_is_refused() -> None:
    stream = pack(HEADER, b"xyz")
    for damaged in (b"", b"PA", stream[:16], b"XX" + stream[2:]):
        with pytest.raises(CorruptStreamError):
            unpack(damaged)
    with pytest.raises(UnknownModelError, match="version 9"):
        unpack(stream[:2] + b"\x09" + stream[3:])
    with pytest.raises(UnknownModelError, match="unknown codec"):
        unpack(stream[:3] + bytes([30 << 3]) + stream[4:])
    for side in (b"\x00", b"\x80\x00", b"\xff\xff\xff\xff"):
        with pytest.raises(CorruptStreamError, match="impossible"):
            unpack(stream[:12] + side + stream[12:])


def test_random_bytes_never_crash_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        noise = b"PA\x02" + rng.integers(0, 256, int(rng.integers(0, 40)), dtype=np.uint8).tobytes()
        try:
            header, _ = unpack(noise)
        except StreamError:
            continue
        assert 1 <= header.width <= MAX_SIDE
