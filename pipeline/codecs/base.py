"""The protocol every codec keeps: pixels in, one self-describing bitstream a photo out, and back.

A protocol and not a base class, since the codecs share no code: a neural network, a Pillow plugin, a copy of the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits

Pixels = NDArray[np.uint8]
"""One photo: H x W x 3, RGB, 0..255, as displayed."""
LOSSLESS_JXL = 100
"""Quality at which the codec `jxl` is lossless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecInfo:
    """What an archive row and the pipeline need to know of a codec."""

    name: str
    """Name in the registry and in the archive's `codec` column."""
    model: str | None
    """Fingerprint (16 hex digits) of the weights that decode its streams; None without weights."""
    multiple: int = 1
    """Height and width are padded to this multiple inside the codec: photos of one padded shape batch well."""
    takes_files: bool = False
    """Stores the file's own bytes; its streams are files, and pixels never pass through it."""
    generative: bool = False
    """Whether it invents detail; a restored file then says so."""


class Codec(Protocol):
    """Pixels <-> bitstream, for a batch of photos of any sizes."""

    info: CodecInfo

    def at(self, quality: int | None) -> Codec:
        """The same codec at another quality (None: its usual one), with the same network. Not for use by threads at once.

        Raises:
            SettingError: it has no such quality.
        """

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """One bitstream a photo, in order."""

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """Inverse of `encode`, to the exact size.

        Raises:
            CorruptStreamError: a stream is damaged.
            UnknownModelError: a stream was made by other weights.
        """


@runtime_checkable
class Transcoder(Protocol):
    """A codec that can also make its stream of a file, so that the very same file comes back."""

    def takes(self, file: bytes) -> bool:
        """Whether it transcodes files of this format."""

    def transcode(self, file: bytes, *, num_pixels: int, limits: PixelLimits = DEFAULT_LIMITS) -> bytes:
        """Return the stream of a file, after the file was made of the stream again and was the same.

        Args:
            num_pixels: of the file, by its header.

        Raises:
            UnsupportedPhotoError: the file is beyond the limits, or does not come back bit for bit.
            UnreadablePhotoError: it is damaged, or of a kind that cannot be transcoded.
        """
