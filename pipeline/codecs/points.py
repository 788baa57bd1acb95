"""Codecs at qualities, as a person writes them: `ditic-small:1..4,avif:30,60,original`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.codecs.base import Codec
from pipeline.codecs.registry import CodecOptions, check_codec, check_options, codec_names, get_codec
from pipeline.errors import SettingError


@dataclass(frozen=True, slots=True)
class CodecAt:
    """A codec at one of its qualities."""

    codec: str
    quality: int | None = None
    """None for the codec's usual one."""

    def __str__(self) -> str:
        return self.codec if self.quality is None else f"{self.codec}:{self.quality}"

    def check_options(self, options: CodecOptions) -> None:
        """As `check`, but for the content of weights, so that torch is not loaded.

        Raises:
            SettingError, CheckpointError: as `pipeline.codecs.registry.check_options`.
        """
        check_options(self.codec, replace(options, quality=self.quality))

    def check(self, options: CodecOptions) -> None:
        """Raise what `codecs_at` would, without building a network.

        Raises:
            SettingError: no codec of this name, or an option that it cannot take.
            CheckpointError: its weights are missing or damaged.
        """
        check_codec(self.codec, replace(options, quality=self.quality))


def codecs_at(points: Iterable[CodecAt], options: CodecOptions) -> Iterator[Codec]:
    """The codec of each point in turn; neighbours that differ in quality alone share one network.

    Args:
        options: of all of them, but for the quality.

    Raises:
        SettingError, CheckpointError: as `get_codec`.
    """
    codec: Codec | None = None
    for point in points:
        if codec is not None and codec.info.name == point.codec:
            codec = codec.at(point.quality)
        else:
            codec = None  # before the next: two networks may not fit into memory together
            codec = get_codec(point.codec, replace(options, quality=point.quality))
        yield codec


def parse_points(text: str) -> tuple[CodecAt, ...]:
    """Comma-separated NAME, NAME:QUALITY or NAME:FIRST..LAST; a quality without a name is of the codec before it.

    Raises:
        SettingError: it is not of that form, or no codec has such a name.
    """
    points: list[CodecAt] = []
    name = None
    for part in text.split(","):
        head, colon, qualities = part.strip().partition(":")
        if name is not None and head[:1].isdecimal():
            head, colon, qualities = name, ":", part.strip()
        if head not in codec_names():
            raise SettingError(f"{text}: no codec is called {head!r}; choose one of {', '.join(codec_names())}")
        name = head
        if not colon:
            points.append(CodecAt(name))
            continue
        if not (match := re.fullmatch(r"(\d{1,3})(?:\.\.(\d{1,3}))?", qualities)):
            raise SettingError(f"{text}: {qualities!r} is no quality; write them as in jpeg:5,12,25 or ditic-small:1..4")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SettingError(f"{text}: the range {qualities} is empty; write the smaller quality first")
        points += [CodecAt(name, quality) for quality in range(first, last + 1)]
    return tuple(dict.fromkeys(points))


def parse_ladder(text: str) -> tuple[CodecAt, ...]:
    """As `parse_points`: codecs to try one after the other until one is good enough for a photo.

    Raises:
        SettingError: it is not of that form, or a rung can never be reached.
    """
    rungs = parse_points(text)
    if any(rung.codec == "original" for rung in rungs[:-1]):
        raise SettingError(f"{text}: nothing gets past `original`; let it be the last")
    return rungs
