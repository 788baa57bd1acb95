"""One rung of a ladder on a batch of photos: encode and, for a gate, decode again and measure.

A batch that fails is halved until the photo that fails stands alone: one bad photo never costs its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.points import CodecAt
from pipeline.errors import PhotoarkError
from pipeline.quality.gate import Gate

if TYPE_CHECKING:
    from pipeline.quality.scorer import Scorer, Scores

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trial:
    """A stream that passed the gate."""

    stream: bytes
    scores: Scores
    """Empty without a gate."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a codec may not stand for a photo."""

    reason: str
    stage: str
    """encode, decode, measure or gate."""


def try_images(
    rung: CodecAt, codec: Codec, images: Sequence[Pixels], gate: Gate, scorer: Scorer | None
) -> list[Trial | Refusal]:
    """Encode `images` and measure what comes back.

    Args:
        scorer: None without a gate: streams are then not decoded.
    """
    # All at once: the codec chooses which of them go through its networks together.
    streams = _each(codec.encode, images, f"{rung} could not encode it", "encode")
    if scorer is None:
        return [stream if isinstance(stream, Refusal) else Trial(stream, {}) for stream in streams]
    there = [stream for stream in streams if not isinstance(stream, Refusal)]
    decoded = iter(_each(codec.decode, there, f"{rung} could not decode it", "decode"))
    found: list[Trial | Refusal] = []
    for image, stream in zip(images, streams, strict=True):
        if isinstance(stream, Refusal):
            found.append(stream)
            continue
        back = next(decoded)
        if isinstance(back, Refusal):
            found.append(back)
            continue
        (scores,) = _each(partial(_scored, scorer), [(image, back)], f"{rung} could not be measured", "measure")
        if isinstance(scores, Refusal):
            found.append(scores)
        elif reason := gate.refusal(scores):
            found.append(Refusal(f"{rung}: {reason}", "gate"))
        else:
            found.append(Trial(stream, scores))
    return found


def _scored(scorer: Scorer, pairs: Sequence[tuple[Pixels, Pixels]]) -> list[Scores]:
    return [scorer.measure(original, decoded) for original, decoded in pairs]


def _each(run: Callable[[Sequence[Any]], Sequence[T]], items: Sequence[Any], what_failed: str, stage: str) -> list[T | Refusal]:
    """`run` on all items, or why it failed on each."""
    if not items:
        return []
    try:
        return list(run(items))
    except Exception as error:
        if len(items) > 1:
            middle = len(items) // 2
            return _each(run, items[:middle], what_failed, stage) + _each(run, items[middle:], what_failed, stage)
        message = error.message if isinstance(error, PhotoarkError) else f"{type(error).__name__}: {error}"
        return [Refusal(f"{what_failed}: {message}", stage)]
