"""A codec that only waits, and a reader of pixels that does: they stand for a GPU, and for the cores beside it, that are not
there, where the pipeline around them is what is measured.

No registry knows them; `EncodeJob.codecs` and `EncodeJob.read_pixels` take them, from Python alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.codecs.base import Codec, CodecInfo, Pixels
from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions
from pipeline.errors import StreamError
from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.sandbox.client import probe
from pipeline.records import PhotoHeader

NAME = "simulated"
FULL_S_PER_MEGAPIXEL = 0.150
"""The paper's encoding time of the full model on an A100; nothing here was measured on a GPU."""


@dataclass(frozen=True, slots=True)
class SimulatedCodecs:
    """`EncodeJob.codecs` of a device with a given speed."""

    s_per_megapixel: float = FULL_S_PER_MEGAPIXEL
    load_s: float = 0.0
    """What loading the model would take."""
    bits_per_pixel: float = 0.05

    def __call__(self, points: Iterable[CodecAt], options: CodecOptions) -> list[Codec]:
        """One for each point."""
        time.sleep(self.load_s)
        return [SimulatedCodec(self) for _ in points]


class SimulatedCodec:
    """Takes the time and makes the bytes of a codec, and keeps no photo."""

    info = CodecInfo(name=NAME, model=None)

    def __init__(self, device: SimulatedCodecs) -> None:
        self._device = device

    def at(self, quality: int | None) -> SimulatedCodec:
        """Itself: there is no quality."""
        return self

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """Wait as long as a device would compute; streams of the right size."""
        pixels = [image.shape[0] * image.shape[1] for image in images]
        time.sleep(sum(pixels) / 1e6 * self._device.s_per_megapixel)
        return [bytes(max(1, int(count * self._device.bits_per_pixel / 8))) for count in pixels]

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """Raises StreamError: nothing was kept."""
        raise StreamError("a simulated codec keeps no photo")


@dataclass(frozen=True, slots=True)
class SimulatedPixels:
    """`EncodeJob.read_pixels` of a thread with a core of its own: takes the time, and no core; all pixels are black."""

    s_per_photo: float
    s_per_megapixel: float

    @classmethod
    def measured(cls, files: Iterable[bytes], *, tries: int = 3) -> SimulatedPixels:
        """As one core takes for real: a line through the least CPU time of `tries` for each file, over its megapixels."""
        megapixels, took_s = [], []
        for data in files:
            header = probe(data)
            megapixels.append(header.width * header.height / 1e6)
            took_s.append(min(_timed(data, header) for _ in range(tries)))
        slope, level = np.polyfit(megapixels, took_s, 1)
        return cls(s_per_photo=max(0.0, float(level)), s_per_megapixel=max(0.0, float(slope)))

    def __call__(self, data: bytes, header: PhotoHeader, *, limits: PixelLimits = DEFAULT_LIMITS) -> Pixels:
        """Wait as long as a core would decode."""
        time.sleep(self.s_per_photo + header.width * header.height / 1e6 * self.s_per_megapixel)
        return np.broadcast_to(np.uint8(0), (header.height, header.width, 3))


def _timed(data: bytes, header: PhotoHeader) -> float:
    start_s = time.process_time()
    read_pixels(data, header)
    return time.process_time() - start_s
