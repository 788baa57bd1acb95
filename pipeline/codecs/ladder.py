"""Codecs to try one after the other, best first, until one is good enough for a photo."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.codecs.registry import CodecOptions, codec_names
from pipeline.errors import SettingError


@dataclass(frozen=True, slots=True)
class Rung:
    """A codec at a quality."""

    codec: str
    quality: int | None = None
    """None for the codec's usual one."""

    def __str__(self) -> str:
        return self.codec if self.quality is None else f"{self.codec}:{self.quality}"

    def options(self, common: CodecOptions) -> CodecOptions:
        """`common`, at this rung's quality."""
        return replace(common, quality=self.quality)


def parse_ladder(text: str) -> tuple[Rung, ...]:
    """`ditic-small:3,avif:60,original` as rungs.

    Raises:
        SettingError: an unknown codec, no number, or a rung that can never be reached.
    """
    rungs = []
    for part in text.split(","):
        name, colon, quality = part.strip().partition(":")
        if name not in codec_names():
            raise SettingError(f"--ladder {text}: no codec is called {name!r}; choose of {', '.join(codec_names())}")
        if colon and not quality.isdecimal():
            raise SettingError(f"--ladder {text}: {quality!r} is no quality; write it as in avif:60")
        rungs.append(Rung(name, int(quality) if colon else None))
    if any(rung.codec == "original" for rung in rungs[:-1]):
        raise SettingError(f"--ladder {text}: nothing gets past `original`; let it be the last")
    return tuple(rungs)
