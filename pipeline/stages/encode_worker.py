"""The actor that encodes: bytes of a block of photos in, one archive row a photo out.

Two calls run at once in one actor (`max_concurrency=2`): while one holds the codec, the other decodes its pixels.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

import pyarrow as pa

from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.registry import CodecOptions, get_codec
from pipeline.errors import PhotoarkError, PhotoError
from pipeline.pixels.probe import DEFAULT_LIMITS, PixelLimits, probe
from pipeline.pixels.reader import read_pixels
from pipeline.records import EncodedPhoto, Outcome, PhotoHeader, encoded_to_table, photos_from_table

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What an encode worker needs to know."""

    codec: str = "ditic-small"
    options: CodecOptions = CodecOptions()
    limits: PixelLimits = DEFAULT_LIMITS
    num_decode_threads: int = 2
    """Threads that decode pixels."""


@dataclass(slots=True)
class _Job:
    """One photo on its way through the worker."""

    row: EncodedPhoto
    pixels: Pixels | None = None


class EncodeWorker:
    """Callable class for `Dataset.map_batches`: table of `MANIFEST_SCHEMA` with data, sha256 and reason -> archive rows."""

    def __init__(self, settings: EncodeSettings) -> None:
        """Load the codec.

        Raises:
            SettingError: the codec or one of its options is wrong.
            CheckpointError: its weights are missing or damaged.
        """
        self._settings = settings
        self._codec: Codec = get_codec(settings.codec, settings.options)
        self._codec_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(settings.num_decode_threads, thread_name_prefix="decode")
        self._encoder = f"photoark {version('photoark')}"

    def __call__(self, table: pa.Table) -> pa.Table:
        """One archive row for each row of `table`, in its order."""
        photos = photos_from_table(table)
        extras = table.select(["data", "sha256", "reason"]).to_pylist()
        empty = [
            EncodedPhoto(
                key=photo.key,
                image=None,
                codec=None,
                model=None,
                outcome=Outcome.FAILED,
                reason=extra["reason"],
                source_uri=photo.uri,
                source_bytes=photo.size_bytes if extra["data"] is None else len(extra["data"]),
                source_sha256=extra["sha256"],
                source_etag=photo.etag,
                modified_at=photo.modified_at,
            )
            for photo, extra in zip(photos, extras, strict=True)
        ]
        jobs = list(self._threads.map(self._prepare, empty, (extra["data"] for extra in extras)))
        data = {photo.key: extra["data"] for photo, extra in zip(photos, extras, strict=True)}
        with self._codec_lock:
            self._encode_all([job for job in jobs if job.pixels is not None], data)
        at = datetime.now(UTC)
        return encoded_to_table(replace(job.row, encoded_at=at, encoder=self._encoder) for job in jobs)

    def _prepare(self, row: EncodedPhoto, data: bytes | None) -> _Job:
        """Look at the header and decode the pixels; what cannot be encoded gets its outcome here."""
        if data is None:
            return _Job(row)
        try:
            header = probe(data, limits=self._settings.limits)
            row = _with_header(row, header)
            if self._codec.info.takes_files:
                return _Job(_kept(row, data, None))
            if header.unsupported:
                return _Job(_kept(row, data, header.unsupported))
            return _Job(row, read_pixels(data, header))
        except PhotoError as error:
            return _Job(replace(row, reason=error.message))
        except MemoryError:
            return _Job(_kept(row, data, "too large to decode in the memory of this machine"))

    def _encode_all(self, jobs: Sequence[_Job], data: dict[str, bytes]) -> None:
        # All at once: which of them go through the networks together is the codec's to choose.
        info = self._codec.info
        for job, stream in zip(jobs, self._encode([job.pixels for job in jobs]), strict=True):
            if isinstance(stream, bytes):
                assert job.row.width and job.row.height
                job.row = replace(
                    job.row, outcome=Outcome.ENCODED, image=stream, codec=info.name, model=info.model, reason=None,
                    bpp=8 * len(stream) / (job.row.width * job.row.height),
                )  # fmt: skip
            else:
                job.row = _kept(job.row, data[job.row.key], stream.reason)
            job.pixels = None

    def _encode(self, images: list[Pixels | None]) -> list[bytes | _Refused]:
        """Bitstreams; a batch that fails is halved until the photo that fails stands alone."""
        if not images:
            return []
        try:
            return list(self._codec.encode([image for image in images if image is not None]))
        except Exception as error:
            if len(images) > 1:
                middle = len(images) // 2
                return self._encode(images[:middle]) + self._encode(images[middle:])
            message = error.message if isinstance(error, PhotoarkError) else f"{type(error).__name__}: {error}"
            log.warning("a photo cannot be encoded and is kept as it is: %s", message)
            return [_Refused(f"{self._codec.info.name} could not encode it: {message}")]


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str


def _with_header(row: EncodedPhoto, header: PhotoHeader) -> EncodedPhoto:
    return replace(
        row,
        format=header.format,
        width=header.width,
        height=header.height,
        mode=header.mode,
        orientation=header.orientation,
        exif=header.metadata.exif,
        icc=header.metadata.icc,
        xmp=header.metadata.xmp,
    )


def _kept(row: EncodedPhoto, data: bytes, reason: str | None) -> EncodedPhoto:
    return replace(row, outcome=Outcome.KEPT, image=data, codec="original", model=None, reason=reason)
