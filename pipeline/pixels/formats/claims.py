"""Width, height and frames that a file claims, read from its first bytes without a decoder.

For the formats whose libraries do more than look before the pixels are asked for: JPEG XL is decoded whole, WebP gets two
canvases. Of a PNG the claim saves taking its chunks apart.
Sources: ISO/IEC 18181-1 (JPEG XL codestream, annex D), 18181-2 (its container), RFC 9649 (WebP), W3C PNG, section 11.2.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_JXL_CODESTREAM = b"\xff\x0a"
_JXL_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_JXL_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_JXL_BIT_DEPTHS = ((8, 0), (10, 0), (12, 0), (1, 6))
_JXL_EXTRA_CHANNELS = ((0, 0), (1, 0), (2, 4), (1, 12))
_PREVIEW_SIDES = ((1, 6), (65, 8), (321, 10), (1345, 12))
_PREVIEW_EIGHTHS = ((16, 0), (32, 0), (1, 5), (33, 9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a file says of itself."""

    format: str
    """Pillow's name."""
    width: int
    height: int
    is_animated: bool
    is_lossless: bool = False
    """Of a JPEG XL file without previews, extra channels or animation: it may be, since its colours are not stored as XYB."""


def read_claim(data: bytes) -> Claim | None:
    """What a JPEG XL, WebP or PNG file claims; None of any other, and where the header is cut short or makes no sense."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
            return Claim(format="PNG", width=width, height=height, is_animated=False)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        codestream = _jxl_codestream(data)
        return None if codestream is None else _jxl(codestream)
    except (struct.error, IndexError):
        return None


def _webp(data: bytes) -> Claim | None:
    kind, is_animated = data[12:16], False
    if kind == b"VP8X":
        is_animated = bool(data[20] & 2)
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return Claim(format="WEBP", width=width, height=height, is_animated=is_animated)


def _jxl_codestream(data: bytes) -> bytes | None:
    """The start of a JPEG XL file's codestream, behind its two marking bytes."""
    if data[:2] == _JXL_CODESTREAM:
        return data[2:]
    if data[:12] != _JXL_CONTAINER:
        return None
    at = 12
    while True:
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0  # the number of the part
            return data[start + 2 : start + 64]
        if size < 8:  # to the end of the file, or impossible
            return None
        at += size


def _jxl(codestream: bytes) -> Claim:
    bits = _Bits(codestream)
    width, height = _jxl_size(bits)
    if bits.read(1):  # all of the metadata is at its default
        return Claim(format="JXL", width=width, height=height, is_animated=False)
    is_animated = False
    if bits.read(1):
        bits.read(3)  # orientation
        if bits.read(1):
            _jxl_size(bits)  # the size to show it at
        if bits.read(1):
            _skip_preview(bits)
        is_animated = bool(bits.read(1))
    is_lossless = not is_animated and _has_exact_colours(bits)
    return Claim(format="JXL", width=width, height=height, is_animated=is_animated, is_lossless=is_lossless)


def _has_exact_colours(bits: _Bits) -> bool:
    """Whether integer samples without extra channels are stored in the image's own colour space, not as XYB."""
    is_float = bits.read(1)
    bits.choice(_JXL_BIT_DEPTHS)
    bits.read(1)  # whether 16 bits suffice to compute with
    num_extra_channels = bits.choice(_JXL_EXTRA_CHANNELS)
    return not is_float and num_extra_channels == 0 and not bits.read(1)


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.read(1)

    def side() -> int:
        return 8 * (1 + bits.read(5)) if is_small else bits.choice(_JXL_SIDES)

    height = side()
    ratio = bits.read(3)
    if not ratio:
        return side(), height
    across, down = _JXL_RATIOS[ratio - 1]
    return height * across // down, height


def _skip_preview(bits: _Bits) -> None:
    choices = _PREVIEW_EIGHTHS if bits.read(1) else _PREVIEW_SIDES
    bits.choice(choices)
    if not bits.read(3):
        bits.choice(choices)


class _Bits:
    """Bits of `data`, from the least significant one of the first byte."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:64], "little")
        self._left = 8 * len(data[:64])

    def read(self, count: int) -> int:
        """The next `count` bits as a number.

        Raises:
            IndexError: there are fewer.
        """
        if count > self._left:
            raise IndexError("the header is cut short")
        value = self._value & (1 << count) - 1
        self._value >>= count
        self._left -= count
        return value

    def choice(self, choices: tuple[tuple[int, int], ...]) -> int:
        """Two bits choose (least value, number of bits that are added to it)."""
        least, count = choices[self.read(2)]
        return least + self.read(count)
