"""A codec that takes memory as networks do, by the pixel, in a process that may have only so much more of it.

python -m tests.chaos.hungry SRC ARCHIVE LIMIT     LIMIT: process | a folder in which the kernel makes control groups
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.classical import PillowCodec
from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions

BYTES_PER_PIXEL = 2_000
LIMIT_BYTES = 600 << 20


@dataclass(frozen=True)
class HungryCodecs:
    """`EncodeJob.codecs`, for a process that is limited from then on."""

    limit: str

    def __call__(self, points: Iterable[CodecAt], options: CodecOptions) -> list[Codec]:
        if self.limit == "process":
            used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (used + LIMIT_BYTES, resource.RLIM_INFINITY))
        else:
            group = Path(self.limit) / str(os.getpid())
            group.mkdir()
            for name in ("memory.max", "memory.limit_in_bytes"):
                if (group / name).exists():
                    (group / name).write_text(str(LIMIT_BYTES))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        return [HungryCodec("webp") for _ in points]


class HungryCodec(PillowCodec):
    """WebP, at a price."""

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        for image in images:
            np.ones(image.shape[0] * image.shape[1] * BYTES_PER_PIXEL, np.uint8)
        return super().encode(images)


def main(source: str, archive: str, limit: str) -> None:
    from cluster.connect import connected
    from pipeline.encode.job import EncodeJob
    from pipeline.encode.run import encode

    with connected():
        encode(EncodeJob(source=source, archive=archive, codec="webp", codecs=HungryCodecs(limit)))


if __name__ == "__main__":
    from tests.chaos import hungry  # workers know this module by its name

    hungry.main(*sys.argv[1:])
