"""A codec that only waits: stands for a GPU that is not there, where the pipeline around it is what is measured.

No registry knows it; `EncodeJob.codecs` takes it, from Python alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.codecs.base import Codec, CodecInfo, Pixels
from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions
from pipeline.errors import StreamError

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
