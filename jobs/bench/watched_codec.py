"""Codecs that note what they do in a folder, where no kill reaches it: for `bench faults`.

They make the streams that they always make, and wait besides as long as a slower codec would.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.points import CodecAt, codecs_at
from pipeline.codecs.registry import CodecOptions


@dataclass(frozen=True, slots=True)
class WatchedCodecs:
    """`EncodeJob.codecs`: those of the registry, watched."""

    folder: str
    s_per_megapixel: float

    def __call__(self, points: Iterable[CodecAt], options: CodecOptions) -> list[Codec]:
        """One for each point."""
        return [WatchedCodec(codec, self) for codec in codecs_at(points, options)]


class WatchedCodec:
    """A codec that notes when it began and ended each photo, one line each."""

    def __init__(self, codec: Codec, watch: WatchedCodecs) -> None:
        self._codec, self._watch = codec, watch
        self.info = codec.info

    def at(self, quality: int | None) -> WatchedCodec:
        """See `Codec.at`."""
        return WatchedCodec(self._codec.at(quality), self._watch)

    def encode(self, images: Sequence[Pixels]) -> list[bytes]:
        """See `Codec.encode`."""
        streams = []
        for image in images:
            photo = hashlib.sha256(image.tobytes()).hexdigest()
            self._note("begin", photo)
            time.sleep(image.shape[0] * image.shape[1] / 1e6 * self._watch.s_per_megapixel)
            streams += self._codec.encode([image])
            self._note("end", photo)
        return streams

    def decode(self, streams: Sequence[bytes]) -> list[Pixels]:
        """See `Codec.decode`."""
        return self._codec.decode(streams)

    def _note(self, what: str, photo: str) -> None:
        # A file a process: what a killed one wrote last is there, and whole.
        with Path(self._watch.folder, f"{os.getpid()}.txt").open("a") as file:
            file.write(f"{what} {photo} {time.time()}\n")


@dataclass(slots=True)
class Attempt:
    """One photo in a codec."""

    photo: str
    began_at: float
    """Unix time, as the other."""
    ended_at: float | None = None
    """None: it did not end."""


def repeated(folder: Path, kills_at: Sequence[float]) -> list[list[float]]:
    """Of each kill, the seconds that codecs had worked on each photo that they had to do again because of it.

    Args:
        kills_at: Unix times, ascending.
    """
    attempts: list[Attempt] = []
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            what, photo, at = line.split()
            if what == "begin":
                attempts.append(Attempt(photo, float(at)))
            else:
                attempts[-1].ended_at = float(at)
    latest = {attempt.photo: attempt for attempt in sorted(attempts, key=lambda attempt: attempt.began_at)}
    found: list[list[float]] = [[] for _ in kills_at]
    for attempt in attempts:
        if attempt is latest[attempt.photo]:
            continue
        # The first kill after it: what a process holds goes with that process.
        i = next((i for i, at in enumerate(kills_at) if at >= (attempt.ended_at or attempt.began_at)), len(kills_at) - 1)
        found[i].append((attempt.ended_at or kills_at[i]) - attempt.began_at)
    return found


def command(folder: Path, s_per_megapixel: float) -> list[str]:
    """What to put before the arguments of `photoark encode`."""
    start = "import sys; from jobs.bench.watched_cli import main; main(*sys.argv[1:3], sys.argv[3:])"
    return [sys.executable, "-c", start, str(folder), str(s_per_megapixel)]
