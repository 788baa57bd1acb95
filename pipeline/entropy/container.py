"""The bytes around a neural bitstream: what it is, what decodes it, and whether it came through whole.

    offset  size  field
    0       2     magic, "PA"
    2       1     version, 2 (low 5 bits), and quality less one (high 3 bits), of the rates that the weights have
    3       1     codec id (high 5 bits) and arithmetic id (low 3 bits)
    4       8     fingerprint of the weights
    12      1-4   width, LEB128, 1 .. 2^24 - 1
    ..      1-4   height, LEB128, 1 .. 2^24 - 1
    ..      4     CRC-32 (zlib's), little-endian, over the bytes before it and then every symbol as little-endian int32
    ..            payload, to the end

At most 24 bytes in all. The checksum covers the symbols, not the payload: what counts is that the same integers were read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from pipeline.entropy.tables import Int32Array
from pipeline.errors import CorruptStreamError, UnknownModelError

MAGIC = b"PA"
VERSION = 2
"""Version 1 had no quality, and no weights that are shipped wrote it."""
MAX_SIDE = (1 << 24) - 1
"""Largest width or height, pixels."""
CODEC_IDS = {"ditic": 1, "ditic-small": 2, "sodec": 3, "ditic-tiny": 31}
"""Never reuse a number: streams outlive the program. The last is for tests."""
ARITHMETIC_IDS = {"float": 0, "exact-1": 1}

_CODECS = {number: name for name, number in CODEC_IDS.items()}
_ARITHMETICS = {number: name for name, number in ARITHMETIC_IDS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the container says of its payload."""

    codec: str
    arithmetic: str
    """`exact-1`: integers, the same everywhere. `float`: streams of the official release."""
    model: str
    """Fingerprint of the weights, 16 hex digits."""
    quality: int
    """1 to 8, from the lowest rate."""
    width: int
    """Pixels."""
    height: int
    checksum: int
    """Of `symbols_checksum`."""


def pack(header: Header, payload: bytes) -> bytes:
    """Container of `payload`."""
    return _prefix(header) + header.checksum.to_bytes(4, "little") + payload


def unpack(stream: bytes) -> tuple[Header, bytes]:
    """Inverse of `pack`.

    Raises:
        CorruptStreamError: not a container, cut short, or of an impossible size.
        UnknownModelError: of a later version, or of a codec that this program does not know.
    """
    if stream[:2] != MAGIC:
        raise CorruptStreamError("the bytes are no photoark bitstream")
    if len(stream) < 18:
        raise CorruptStreamError("the bitstream is cut short")
    if stream[2] & 31 != VERSION:
        raise UnknownModelError(f"the bitstream is of version {stream[2] & 31}; this program reads version {VERSION}")
    codec, arithmetic = _CODECS.get(stream[3] >> 3), _ARITHMETICS.get(stream[3] & 7)
    if codec is None or arithmetic is None:
        raise UnknownModelError(f"the bitstream is of an unknown codec ({stream[3]}): update this program")
    width, offset = _read_varint(stream, 12)
    height, offset = _read_varint(stream, offset)
    payload = stream[offset + 4 :]
    if len(stream) < offset + 4:
        raise CorruptStreamError("the bitstream is cut short")
    header = Header(
        codec=codec,
        arithmetic=arithmetic,
        model=stream[4:12].hex(),
        quality=1 + (stream[2] >> 5),
        width=width,
        height=height,
        checksum=int.from_bytes(stream[offset : offset + 4], "little"),
    )
    return header, payload


def check_kind(header: Header, *, codec: str, model: str | None, arithmetic: str) -> None:
    """Check that a stream is for this codec, with these weights and in this arithmetic.

    Raises:
        UnknownModelError: it is not.
    """
    if (header.codec, header.model) != (codec, model):
        raise UnknownModelError(f"the stream needs {header.codec} with weights {header.model}; loaded is {codec} {model}")
    if header.arithmetic != arithmetic:
        raise UnknownModelError(f"the stream was made in {header.arithmetic!r} arithmetic; this codec reads {arithmetic!r}")


def symbols_checksum(header: Header, *symbols: Int32Array) -> int:
    """CRC-32 over the header (its own checksum aside) and the symbols, in stream order."""
    crc = zlib.crc32(_prefix(header))
    for part in symbols:
        crc = zlib.crc32(np.ascontiguousarray(part, "<i4").tobytes(), crc)
    return crc


def _prefix(header: Header) -> bytes:
    kind = CODEC_IDS[header.codec] << 3 | ARITHMETIC_IDS[header.arithmetic]
    fingerprint = bytes.fromhex(header.model)
    if len(fingerprint) != 8:
        raise ValueError("a fingerprint has 16 hex digits")
    if not 1 <= header.quality <= 8:
        raise ValueError("a quality must be in 1..8")
    version = header.quality - 1 << 5 | VERSION
    return MAGIC + bytes((version, kind)) + fingerprint + _varint(header.width) + _varint(header.height)


def _varint(value: int) -> bytes:
    if not 1 <= value <= MAX_SIDE:
        raise ValueError(f"width and height must be in 1..{MAX_SIDE}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(stream: bytes, offset: int) -> tuple[int, int]:
    value = 0
    for i in range(4):
        if offset + i >= len(stream):
            raise CorruptStreamError("the bitstream is cut short")
        byte = stream[offset + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            # One spelling a number: a longer one would let the same header have several.
            if not 1 <= value <= MAX_SIDE or (i and byte == 0):
                break
            return value, offset + i + 1
    raise CorruptStreamError("the bitstream names an impossible width or height")
