"""JPEG, AVIF, WebP and JPEG XL through Pillow: baselines, and what a photo falls back to. Streams are plain image files.

They are decoded as other files are, in a process of its own (`sandbox`): an archive may come from anywhere. At quality 100
JPEG XL is lossless, and takes JPEG files as they are (`pixels.jpeg_xl`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from pipeline.codecs.base import LOSSLESS_JXL, CodecInfo, Pixels
from pipeline.errors import CorruptStreamError, PhotoError, SettingError, UnsupportedPhotoError
from pipeline.pixels.formats import jpeg_xl
from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.sandbox.client import probe, read_pixels, to_jpeg, to_jpeg_xl
from pipeline.records import PhotoHeader


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    pillow_name: str
    default_quality: int
    options: dict[str, Any]
    max_side: int = 1 << 16


FORMATS = {
    "jpeg": _Format(pillow_name="JPEG", default_quality=75, options={"optimize": True, "subsampling": "4:2:0"}, max_side=65500),
    "avif": _Format(pillow_name="AVIF", default_quality=60, options={"speed": 6}),
    "webp": _Format(pillow_name="WEBP", default_quality=75, options={"method": 6}, max_side=16383),
    "jxl": _Format(pillow_name="JXL", default_quality=75, options={}),
}


class PillowCodec:
    """One of `FORMATS` at a quality; `pillow_codec` makes it."""

    def __init__(self, name: str, *, quality: int | None = None) -> None:
        """Choose format and quality.

        Args:
            quality: 1 (small) to 100 (near lossless; lossless for jxl); None for the format's usual one.

        Raises:
            SettingError: the quality is out of range.
        """
        self._format = FORMATS[name]
        self._options = self._format.options
        self.quality = self._format.default_quality if quality is None else quality
        if not 1 <= self.quality <= 100:
            raise SettingError(f"quality {quality} of {name} must be between 1 and 100")
        if name == "jxl":
            import pillow_jxl  # noqa: F401 (registers itself with Pillow)
        self.info = CodecInfo(name=name, model=None)

    def at(self, quality: int | None) -> PillowCodec:
        """See `Codec.at`."""
        return pillow_codec(self.info.name, quality)

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """One file a photo; see `Codec.encode`.

        Raises:
            UnsupportedPhotoError: wider or higher than the format allows, or larger than what is decoded again.
        """
        return [self._encode(image) for image in images]

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """See `Codec.decode`."""
        return [self._decode(stream) for stream in streams]

    def _encode(self, image: Pixels) -> bytes:
        if max(image.shape[:2]) > self._format.max_side:
            raise UnsupportedPhotoError(f"{self.info.name} holds at most {self._format.max_side} pixels a side")
        if image.shape[0] * image.shape[1] > DEFAULT_LIMITS.max_pixels:
            raise UnsupportedPhotoError(
                f"{self.info.name} streams of more than {DEFAULT_LIMITS.max_pixels} pixels are not read"
            )
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format=self._format.pillow_name, quality=self.quality, **self._options)
        return buffer.getvalue()

    def _decode(self, stream: bytes) -> Pixels:
        try:
            if self.info.name == "jxl" and jpeg_xl.holds_jpeg(stream):
                return _pixels_of_jpeg(to_jpeg(stream))
            return read_pixels(stream, stream_header(stream, self.info.name))
        except PhotoError as error:
            raise CorruptStreamError(f"the {self.info.name} stream cannot be decoded: {error.message}") from error


class LosslessJpegXL(PillowCodec):
    """JPEG XL at quality 100: lossless from pixels, and reversible from JPEG files (`Transcoder`)."""

    def __init__(self) -> None:
        super().__init__("jxl", quality=LOSSLESS_JXL)
        self._options = {"lossless": True}

    def takes(self, file: bytes) -> bool:
        """See `Transcoder.takes`."""
        return file.startswith(b"\xff\xd8\xff")

    def transcode(self, file: bytes, *, num_pixels: int, limits: PixelLimits = DEFAULT_LIMITS) -> bytes:
        """See `Transcoder.transcode`."""
        # Streams are read with the default limits, wherever that is.
        max_pixels = min(limits.max_pixels, DEFAULT_LIMITS.max_pixels)
        max_bytes = min(limits.max_bytes, DEFAULT_LIMITS.max_bytes)
        if num_pixels > max_pixels or len(file) > max_bytes:
            raise UnsupportedPhotoError(f"it has more than {max_pixels} pixels or {max_bytes} bytes")
        stream = to_jpeg_xl(file, num_pixels=num_pixels, limits=limits)
        if not jpeg_xl.holds_jpeg(stream) or to_jpeg(stream) != file:
            raise UnsupportedPhotoError("the file does not come back bit for bit from its JPEG XL")
        return stream


def pillow_codec(name: str, quality: int | None = None) -> PillowCodec:
    """One of `FORMATS` at a quality.

    Raises:
        SettingError: the quality is out of range.
    """
    return LosslessJpegXL() if (name, quality) == ("jxl", LOSSLESS_JXL) else PillowCodec(name, quality=quality)


def stream_header(stream: bytes, codec: str) -> PhotoHeader:
    """What the header of a stream of one of `FORMATS` says.

    Raises:
        CorruptStreamError: it is no such stream, or none that can be decoded.
    """
    try:
        header = probe(stream, is_stream=True)
    except PhotoError as error:
        raise CorruptStreamError(f"the {codec} stream cannot be decoded: {error.message}") from error
    if header.format != FORMATS[codec].pillow_name or header.unsupported:
        found = header.unsupported or f"a {header.format} file"
        raise CorruptStreamError(f"the {codec} stream is none that was written here: {found}")
    return header


def _pixels_of_jpeg(file: bytes) -> Pixels:
    """Pixels of a file that was transcoded.

    Raises:
        PhotoError: it cannot be decoded, or is too large.
    """
    header = probe(file)
    if header.width * header.height > DEFAULT_LIMITS.max_pixels:
        raise UnsupportedPhotoError(header.unsupported or "too many pixels")
    # What the file holds beside its first picture is no reason to refuse that picture.
    return read_pixels(file, replace(header, unsupported=None))
