"""Codecs over photos: real streams, decoded again, rate and quality of each, and what follows from them.

    for each codec and quality:  photo ─► pixels ─► stream (its bytes are the rate) ─► pixels ─► scores
                                                                                        │
               means over photos ─► curves ─► BD-rate        photos, worst first, at equal rate ─► crops

A codec's curve is the mean over photos at each of its qualities, of bits per pixel and of each score, every photo counting
the same whatever its size. Means are over the photos that every codec managed at every quality; the others are failures
with a reason. FID compares sets: those of the same photos, as they were and as each point of a curve leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.classical import FORMATS
from pipeline.codecs.points import CodecAt, codecs_at
from pipeline.codecs.registry import CodecOptions, get_codec
from pipeline.errors import PhotoError, SettingError, StorageError, StreamError
from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits, probe
from pipeline.pixels.sandbox.client import read_pixels
from pipeline.progress import Clock, OnProgress, Progress
from pipeline.quality.rate_distortion import FID, BDRate, Metric, bd_rate
from pipeline.records import Photo
from pipeline.sources.folder import list_photos
from pipeline.storage.base import fetch

if TYPE_CHECKING:
    from pipeline.quality.fid import Sets
    from pipeline.quality.scorer import Scorer, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One photo through one codec."""

    photo: str
    at: CodecAt
    width: int
    height: int
    num_bytes: int
    """Of the stream."""
    bpp: float
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A photo that has no part in the means."""

    photo: str
    at: CodecAt | None
    """Where it failed; None where it could not be read."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """One point of a codec's curve."""

    at: CodecAt
    bpp: float
    scores: Scores
    """Means over the photos that have such a score; None where none has, or one is infinite. FID is of all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was measured."""

    source: str
    points: tuple[CodecAt, ...]
    """In the order asked for."""
    metrics: tuple[Metric, ...]
    measured: list[Measured] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    models: dict[str, str | None] = field(default_factory=dict)
    """Codec -> fingerprint of its weights."""
    num_patches: int | None = None
    """That FID is taken over, where it was asked for."""
    fid: dict[CodecAt, float] = field(default_factory=dict)
    """Empty where too few patches came through everywhere."""

    @property
    def codecs(self) -> list[str]:
        """Names, in the order asked for."""
        return list(dict.fromkeys(point.codec for point in self.points))

    @property
    def photos(self) -> list[str]:
        """Those that every codec managed at every quality."""
        failed = {failure.photo for failure in self.failed}
        return list(dict.fromkeys(m.photo for m in self.measured if m.photo not in failed))

    def of(self, photo: str) -> dict[CodecAt, Measured]:
        """What became of one photo."""
        return {m.at: m for m in self.measured if m.photo == photo}

    def means(self) -> list[Mean]:
        """One for each point, in their order; none where no photo came through everywhere."""
        photos = set(self.photos)
        found = []
        for point in self.points if photos else ():
            rows = [m for m in self.measured if m.at == point and m.photo in photos]
            scores: Scores = {m.key: _mean([row.scores[m.key] for row in rows], m) for m in self.metrics if m is not FID}
            if FID in self.metrics:
                scores[FID.key] = self.fid.get(point)
            found.append(Mean(at=point, bpp=math.fsum(row.bpp for row in rows) / len(rows), scores=scores))
        return found

    def curve(self, codec: str, metric: Metric) -> list[tuple[float, float]]:
        """(bits per pixel, score) of each quality of a codec that has such a score."""
        points = [(mean.bpp, mean.scores[metric.key]) for mean in self.means() if mean.at.codec == codec]
        return [(bpp, score) for bpp, score in points if score is not None]

    def bd_rates(self, anchor: str) -> dict[str, dict[str, BDRate]]:
        """Codec -> `Metric.key` -> BD-rate against the anchor, for each codec but the anchor."""
        return {
            codec: {m.key: bd_rate(self.curve(anchor, m), self.curve(codec, m), m) for m in self.metrics}
            for codec in self.codecs
            if codec != anchor
        }

    def worst_first(self) -> list[str]:
        """Photos by the mean perceptual distance that the first codec leaves, the largest first."""

        def distance(photo: str) -> float:
            found = [m.scores["perceptual"] or 0.0 for at, m in self.of(photo).items() if at.codec == self.codecs[0]]
            return sum(found) / len(found)

        return sorted(self.photos, key=distance, reverse=True)

    def nearest_in_rate(self, photo: str) -> list[Measured]:
        """One result of each codec, of rates as equal as the qualities that were asked for allow.

        Of the first codec's qualities the one that the others come nearest to, and of each other codec the nearest, by the
        ratio of the rates.
        """
        found = self.of(photo)

        def nearest(codec: str, bpp: float) -> Measured:
            return min((m for at, m in found.items() if at.codec == codec), key=lambda m: abs(math.log(m.bpp / bpp)))

        first, *others = self.codecs
        choices = [[m, *(nearest(codec, m.bpp) for codec in others)] for at, m in found.items() if at.codec == first]
        return min(choices, key=lambda choice: max(abs(math.log(m.bpp / choice[0].bpp)) for m in choice))


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """One photo through one codec, to look at."""

    photo: str
    at: CodecAt
    bpp: float
    original: Pixels
    decoded: Pixels


def evaluate(
    source: str,
    points: Sequence[CodecAt],
    scorer: Scorer,
    *,
    options: CodecOptions,
    limits: PixelLimits = DEFAULT_LIMITS,
    on_progress: OnProgress = lambda _: None,
) -> Evaluation:
    """Send every photo of a source through every codec at every quality.

    Args:
        source: folder, bucket or prefix of photos.
        points: codecs and qualities; `quality` of the options is not looked at.

    Raises:
        SettingError: no such source, no photo in it, too few for FID, or an option that a codec cannot take; before anything
            is started.
    """
    photos = list_photos(source)
    if not photos:
        raise SettingError(f"{source} holds no files: name a folder of photos")
    for point in points:
        point.check(options)
    result = Evaluation(source=source, points=tuple(points), metrics=scorer.metrics)
    sets = scorer.sets()
    if sets is not None:
        _check_patches(photos, limits)
        result = replace(result, metrics=(*scorer.metrics, FID))
    clock, num_done, bytes_done = Clock(), 0, 0
    for i, (point, codec) in enumerate(zip(points, codecs_at(points, options), strict=True)):
        result.models[point.codec] = codec.info.model
        for j, photo in enumerate(photos):
            outcome = _one(photo, point, codec, scorer, limits, sets)
            if isinstance(outcome, Measured):
                result.measured.append(outcome)
            else:
                result.failed.append(outcome)
            num_done, bytes_done = num_done + 1, bytes_done + photo.size_bytes
            num_left = len(photos) - j - 1 + (len(points) - i - 1) * len(photos)
            on_progress(
                Progress(
                    num_done=num_done,
                    num_total=num_done + num_left,
                    num_failed=len(result.failed),
                    bytes_done=bytes_done,
                    elapsed_s=clock.elapsed_s,
                )
            )
        # What cannot be read is said once.
        unreadable = {failure.photo for failure in result.failed if failure.at is None}
        photos = [photo for photo in photos if photo.key not in unreadable]
    if sets is not None:
        done = result.photos
        result = replace(result, num_patches=sets.num_patches(done))
        # Of a set that failures made too small, the number of patches is told, and no distance.
        with suppress(SettingError):
            result = replace(result, fid={at: sets.distance(at, done) for at in points})
    return result


def at_equal_rate(
    result: Evaluation, photos: Sequence[str], *, options: CodecOptions, limits: PixelLimits = DEFAULT_LIMITS
) -> Iterator[Restored]:
    """Some photos once more through every codec, at the rate of the first or as near to it as the codec comes.

    A classical codec may take any quality for that, another those that were measured. They come codec by codec, in the order
    of the codecs; streams are not kept, and encoding repeats them.
    """
    listed = {photo.key: photo for photo in list_photos(result.source)}
    chosen: list[tuple[str, CodecAt]] = []
    for name in photos:
        first, *others = result.nearest_in_rate(name)
        chosen.append((name, first.at))
        for other in others:
            at = other.at
            if at.codec in FORMATS:
                pixels = _read(listed[name], limits)[1]
                at = replace(at, quality=_quality_for(at.codec, pixels, first.bpp))
            chosen.append((name, at))
    points = sorted({at for _, at in chosen}, key=lambda at: (result.codecs.index(at.codec), at.quality or 0))
    for point, codec in zip(points, codecs_at(points, options), strict=True):
        for name in (name for name, at in chosen if at == point):
            data, pixels = _read(listed[name], limits)
            stream, decoded = _through(codec, data, pixels)
            yield Restored(photo=name, at=point, bpp=_rate(stream, pixels), original=pixels, decoded=decoded)


def _quality_for(codec: str, pixels: Pixels, bpp: float) -> int:
    """Of a classical codec, whose rate rises with its quality: that which comes nearest to `bpp`."""

    @cache
    def rate(quality: int) -> float:
        return _rate(get_codec(codec, CodecOptions(quality=quality)).encode([pixels])[0], pixels)

    low, high = 1, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rate(middle) > bpp else (middle, high)
    return min((low, high), key=lambda quality: abs(math.log(rate(quality) / bpp)))


def _check_patches(photos: Sequence[Photo], limits: PixelLimits) -> None:
    from pipeline.quality.fid import check_enough, num_patches

    found = 0
    for photo in photos:
        try:
            header = probe(_bytes(photo), limits=limits)
        except (PhotoError, StorageError):
            continue  # said when it is evaluated
        found += num_patches(header.height, header.width)
    check_enough(found, len(photos))


def _one(
    photo: Photo, point: CodecAt, codec: Codec, scorer: Scorer, limits: PixelLimits, sets: Sets | None
) -> Measured | Failed:
    try:
        data, pixels = _read(photo, limits)
    except (PhotoError, StorageError) as error:
        return Failed(photo=photo.key, at=None, reason=error.message)
    try:
        stream, decoded = _through(codec, data, pixels)
    except (PhotoError, StreamError) as error:
        return Failed(photo=photo.key, at=point, reason=error.message)
    if sets is not None:
        sets.add(photo.key, point, pixels, decoded)
    height, width, _ = pixels.shape
    return Measured(
        photo=photo.key,
        at=point,
        width=width,
        height=height,
        num_bytes=len(stream),
        bpp=_rate(stream, pixels),
        scores=scorer.score(pixels, decoded),
    )


def _read(photo: Photo, limits: PixelLimits) -> tuple[bytes, Pixels]:
    data = _bytes(photo)
    return data, read_pixels(data, limits=limits)


def _bytes(photo: Photo) -> bytes:
    return fetch(photo.uri).data


def _through(codec: Codec, data: bytes, pixels: Pixels) -> tuple[bytes, Pixels]:
    (stream,) = [data] if codec.info.takes_files else codec.encode([pixels])
    (decoded,) = codec.decode([stream])
    return stream, decoded


def _rate(stream: bytes, pixels: Pixels) -> float:
    from pipeline.quality.metrics import bits_per_pixel

    height, width, _ = pixels.shape
    return bits_per_pixel(len(stream), width=width, height=height)


def _mean(scores: Sequence[float | None], metric: Metric) -> float | None:
    found = [score for score in scores if score is not None]
    # PSNR has no value where a photo came back equal, and the mean has none then either.
    if not found or (metric.key == "psnr" and len(found) < len(scores)):
        return None
    return math.fsum(found) / len(found)
