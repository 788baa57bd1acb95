"""The file as it is: for what no codec here can represent, and for who asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.codecs.base import CodecInfo, Pixels
from pipeline.errors import PhotoError


class OriginalCodec:
    """Stores files; the pipeline hands it bytes (`CodecInfo.takes_files`), never pixels."""

    info = CodecInfo(name="original", model=None, takes_files=True)

    def at(self, quality: int | None) -> OriginalCodec:
        """Itself: it has but one."""
        return self

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """Refused: it has the file's bytes only where the pipeline hands them over."""
        raise PhotoError("`original` stores files as they are; it cannot make one from pixels")

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """Pixels of the stored files, as displayed.

        Raises:
            UnreadablePhotoError: a file is no image.
            UnsupportedPhotoError: a file is not representable as 8-bit RGB.
        """
        from pipeline.pixels.sandbox.client import read_pixels

        return [read_pixels(stream) for stream in streams]
