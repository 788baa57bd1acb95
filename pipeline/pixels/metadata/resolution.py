"""Print resolution: how many pixels go into a unit of length, as the containers note it and as rows hold it.

    JFIF   two numbers of 16 bits    per inch, per centimetre, or their ratio alone
    PNG    two numbers of 32 bits    per metre, or their ratio alone (pHYs)
    TIFF   two fractions             per inch, per centimetre, or their ratio alone

A row holds text: `600x600/inch`, `23622x23622/m`, or `4x3`, a ratio. WebP, HEIC and AVIF have no place for it but EXIF, which
travels as it is.
Sources: T.871, section 10.1; W3C PNG, section 11.3.4.3; TIFF 6.0, section 8.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from fractions import Fraction

_TEXT = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)x(\d{1,12}(?:\.\d{1,12})?)(?:/(inch|cm|m))?")
_JFIF_UNITS, _PNG_UNITS, _TIFF_UNITS = (None, "inch", "cm"), (None, "m"), {1: None, 2: "inch", 3: "cm"}
_METRES = {"inch": 0.0254, "cm": 0.01, "m": 1.0}
_JFIF, _PNG = struct.Struct(">BHH"), struct.Struct(">IIB")
_JFIF_AT = 7
"""Of the unit in the segment's payload."""
_IN_JPEG = slice(13, 18)
"""Of unit and numbers in a JPEG that begins with its JFIF segment, as Pillow's do."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Pixels for each unit of length, or a ratio of the sides of a pixel where there is no unit."""

    x: float
    y: float
    unit: str | None
    """inch, cm or m."""

    def __str__(self) -> str:
        """As rows hold it."""
        sides = (f"{side:.9f}".rstrip("0").rstrip(".") for side in (self.x, self.y))
        return "x".join(sides) + (f"/{self.unit}" if self.unit else "")

    def per(self, unit: str) -> Resolution:
        """The same in another unit; a ratio stays one."""
        if self.unit is None or self.unit == unit:
            return self
        factor = _METRES[unit] / _METRES[self.unit]
        return Resolution(self.x * factor, self.y * factor, unit)


def parse(text: str | None) -> Resolution | None:
    """The resolution that a row holds; None where it holds none, or none that makes sense."""
    if text is None or (match := _TEXT.fullmatch(text)) is None:
        return None
    return Resolution(float(match[1]), float(match[2]), match[3])


def of_jfif(payload: bytes) -> Resolution | None:
    """What the payload of a JFIF segment says."""
    if len(payload) < _JFIF_AT + _JFIF.size:
        return None
    unit, x, y = _JFIF.unpack_from(payload, _JFIF_AT)
    return Resolution(x, y, _JFIF_UNITS[unit]) if unit < len(_JFIF_UNITS) else None


def of_phys(payload: bytes) -> Resolution | None:
    """What the payload of a PNG's pHYs says."""
    if len(payload) != _PNG.size:
        return None
    x, y, unit = _PNG.unpack(payload)
    return Resolution(x, y, _PNG_UNITS[unit]) if unit < len(_PNG_UNITS) else None


def of_tiff(x: Fraction, y: Fraction, unit: int) -> Resolution | None:
    """What three tags of a TIFF say; no unit is the inch."""
    return Resolution(float(x), float(y), _TIFF_UNITS[unit]) if unit in _TIFF_UNITS else None


def as_tiff(resolution: Resolution) -> tuple[Fraction, Fraction, int]:
    """Values of the three tags of a TIFF."""
    found = resolution.per("inch") if resolution.unit == "m" else resolution
    x, y = (Fraction(side).limit_denominator(10_000) for side in (found.x, found.y))
    return x, y, next(number for number, unit in _TIFF_UNITS.items() if unit == found.unit)


def as_phys(resolution: Resolution) -> bytes | None:
    """Payload of a PNG's pHYs; None where its numbers are too small for the resolution."""
    found = resolution.per("m")
    x, y = round(found.x), round(found.y)
    return _PNG.pack(x, y, _PNG_UNITS.index(found.unit)) if 0 < x < 1 << 31 and 0 < y < 1 << 31 else None


def in_jpeg(jpeg: bytes, resolution: Resolution) -> bytes:
    """A JPEG of Pillow's with the resolution in its JFIF segment, if its numbers are large enough for it."""
    found = resolution.per("inch") if resolution.unit == "m" else resolution
    x, y = round(found.x), round(found.y)
    if jpeg[6:11] != b"JFIF\0" or max(x, y) >= 1 << 16:
        return jpeg
    patched = bytearray(jpeg)
    patched[_IN_JPEG] = _JFIF.pack(_JFIF_UNITS.index(found.unit), x, y)
    return bytes(patched)
