"""The actor that encodes: bytes of a block of photos in, one archive row a photo out.

Two calls run at once in one actor (`max_concurrency=2`): while one holds the codec, the other decodes its pixels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.codecs.base import Codec, Pixels, Transcoder
from pipeline.codecs.points import CodecAt
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.trial import Refusal, try_images
from pipeline.errors import PhotoError
from pipeline.logs import about
from pipeline.on_ray.telemetry import record_block
from pipeline.on_ray.work import READ_S, BlockWork, where, with_work
from pipeline.pixels.formats.jpeg_xl import holds_jpeg
from pipeline.pixels.formats.writer import why_not_back
from pipeline.pixels.gps import may_hold_gps as holds_gps
from pipeline.pixels.gps import without_gps
from pipeline.pixels.sandbox.client import probe
from pipeline.records import (
    METADATA_COLUMNS,
    EncodedPhoto,
    KeepOriginal,
    Outcome,
    PhotoHeader,
    encoded_to_table,
    photos_from_table,
)
from pipeline.sources.file_kinds import claims_to_be_photo, is_raw

if TYPE_CHECKING:
    from pipeline.quality.scorer import Scores

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job:
    """One photo on its way through the worker."""

    row: EncodedPhoto
    data: bytes | None = None
    """The file; None where it could not be read."""
    pixels: Pixels | None = None
    """None once the row is made."""
    refusals: list[str] = field(default_factory=list)
    """Why the rungs so far did not do."""
    stage: str = "keep"
    """In which it failed, if it did."""


class EncodeWorker:
    """Callable class for `Dataset.map_batches`: table of `MANIFEST_SCHEMA` with data, sha256 and reason -> archive rows."""

    def __init__(self, settings: EncodeSettings) -> None:
        """Load the codecs.

        Raises:
            SettingError: the codec or one of its options is wrong.
            CheckpointError: its weights are missing or damaged.
        """
        self._settings = settings
        self._rungs = list(zip(settings.ladder, settings.codecs(settings.ladder, settings.options), strict=True))
        self._is_marked = any(codec.info.model for _, codec in self._rungs)
        self._scorer = settings.scorer()
        self._recipe = settings.recipe()
        self._codec_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(settings.num_decode_threads, thread_name_prefix="decode")
        self._encoder = f"photoark {version('photoark')}"
        self._node, self._actor = where()

    def __call__(self, table: pa.Table) -> pa.Table:
        """One archive row for each row of `table`, in its order, and in a further column what the call did."""
        photos = photos_from_table(table)
        extras = table.select(["data", "sha256", "reason", "same_as"]).to_pylist()
        empty = [
            EncodedPhoto(
                key=photo.key,
                image=None,
                codec=None,
                model=None,
                # What is the same as another is not for this actor to judge.
                outcome=Outcome.FAILED if extra["same_as"] is None else Outcome.KEPT,
                reason=extra["reason"],
                same_as=extra["same_as"],
                source_uri=photo.uri,
                source_bytes=photo.size_bytes if extra["data"] is None else len(extra["data"]),
                source_sha256=extra["sha256"],
                source_etag=photo.etag,
                modified_at=photo.modified_at,
            )
            for photo, extra in zip(photos, extras, strict=True)
        ]
        started_s = time.perf_counter()
        companions = [photo.companion_of for photo in photos]
        jobs = list(self._threads.map(self._prepare, empty, (extra["data"] for extra in extras), companions))
        prepared_s = time.perf_counter()
        with self._codec_lock:
            codec_started_at, codec_started_s = time.time(), time.perf_counter()
            self._encode_all([job for job in jobs if job.pixels is not None])
            codec_s = time.perf_counter() - codec_started_s
        at = datetime.now(UTC)
        rows = [replace(job.row, encoded_at=at, encoder=self._encoder) for job in jobs]
        work = BlockWork(
            node=self._node,
            actor=self._actor,
            codec_started_at=codec_started_at,
            read_s=pc.sum(table[READ_S]).as_py(),
            pixels_s=prepared_s - started_s,
            wait_s=codec_started_s - prepared_s,
            codec_s=codec_s,
            num_photos=len(rows),
            num_pixels=sum((row.width or 0) * (row.height or 0) for row in rows),
        )
        record_block(rows, work)
        stages = [job.stage if job.row.outcome is Outcome.FAILED else None for job in jobs]
        return with_work(encoded_to_table(rows), work, stages)

    def _prepare(self, row: EncodedPhoto, data: bytes | None, companion_of: str | None) -> _Job:
        """Look at the header and decode the pixels; what cannot be encoded gets its outcome here."""
        if data is None:
            return _Job(row, stage="read")
        if companion_of is not None:
            return _Job(self._kept(row, data, f"no photo, but it belongs to {companion_of}", may_hold_gps=True))
        if data and is_raw(row.key):
            return _Job(self._kept(row, data, "a camera's raw file", may_hold_gps=True))
        stage = "probe"
        try:
            with about(key=row.key, stage=stage):
                header = probe(data, limits=self._settings.limits)
            if self._settings.strip_gps:
                header = replace(header, metadata=without_gps(header.metadata))
            row = _with_header(row, header)
            if self._rungs[0][1].info.takes_files:
                return _Job(self._kept(row, data, None, recipe=self._recipe.refused))
            job = _Job(row, data)
            # A codec that takes the file needs no pixels; where they must not stand for the file, no other codec may serve.
            reason = header.unsupported or why_not_back(header, is_marked=self._is_marked)
            for rung, codec in self._rungs if reason else self._rungs[:1]:
                if self._transcode(rung, codec, job):
                    return job
            if reason:
                recipe = self._recipe.refused if job.refusals else None
                return _Job(self._kept(row, data, "; ".join([reason, *job.refusals]), recipe=recipe))
            stage = "pixels"
            with about(key=row.key, stage=stage):
                job.pixels = self._settings.read_pixels(data, header, limits=self._settings.limits)
            return job
        except PhotoError as error:
            if stage == "probe" and not claims_to_be_photo(row.key, data):
                return _Job(self._kept(row, data, f"not a photo: {error.message}", may_hold_gps=True))
            return _Job(replace(row, reason=error.message), stage=stage)
        except MemoryError:
            return _Job(self._kept(row, data, "too large to decode in the memory of this machine"))

    def _encode_all(self, jobs: Sequence[_Job]) -> None:
        for i, (rung, codec) in enumerate(self._rungs):
            left = [job for job in jobs if job.pixels is not None]
            if i > 0:
                left = [job for job in left if not self._transcode(rung, codec, job)]
            if isinstance(codec, Transcoder):
                # Made of its pixels, such a file would not come back as it was.
                left = [job for job in left if not (job.data and codec.takes(job.data) and self._may_stand(job.data))]
            if not codec.info.takes_files:
                self._try_rung(rung, codec, left)
        for job in jobs:
            assert job.data is not None
            if job.pixels is not None:
                reason, recipe = "; ".join(job.refusals), self._recipe.refused
                job.row, job.pixels = self._kept(job.row, job.data, reason, recipe=recipe), None
            elif self._settings.keep_original is KeepOriginal.ALWAYS and not holds_jpeg(job.row.image or b""):
                job.row = replace(job.row, original=job.data)

    def _may_stand(self, data: bytes) -> bool:
        """Whether a file's own bytes may be stored."""
        return self._settings.keep_original is not KeepOriginal.NEVER and not self._may_hold_position(data)

    def _may_hold_position(self, data: bytes) -> bool:
        """Whether --strip-gps keeps a file's own bytes from being stored."""
        return self._settings.strip_gps and holds_gps(data)

    def _kept(
        self, row: EncodedPhoto, data: bytes, reason: str | None, *, recipe: str | None = None, may_hold_gps: bool | None = None
    ) -> EncodedPhoto:
        """The row of a photo that no codec may stand for.

        Args:
            recipe: that the row records; None for files that no codec takes, whatever the ladder.
        """
        if self._settings.strip_gps and (holds_gps(data) if may_hold_gps is None else may_hold_gps):
            why = f": {reason}" if reason else ""
            return replace(row, reason=f"its bytes may hold GPS data, which --strip-gps does not let be stored{why}")
        if self._settings.keep_original is KeepOriginal.NEVER:
            return replace(row, reason=f"no codec may stand for it, and bytes are not kept (--keep-original never): {reason}")
        recipe = recipe or self._recipe.unsupported
        return replace(row, outcome=Outcome.KEPT, image=data, codec="original", model=None, reason=reason, recipe=recipe)

    def _transcode(self, rung: CodecAt, codec: Codec, job: _Job) -> bool:
        """Let a codec that can take a file do so; the file then comes back bit for bit, so that no gate measures it.

        Returns:
            Whether the row is made; if not, and the codec could have taken the file, `job.refusals` says why it did not.
        """
        assert job.data is not None
        if not isinstance(codec, Transcoder) or not codec.takes(job.data):
            return False
        if self._settings.strip_gps and holds_gps(job.data):  # which would travel in the stream
            return False
        num_pixels = (job.row.width or 0) * (job.row.height or 0)
        try:
            with about(key=job.row.key, stage="encode"):
                stream = codec.transcode(job.data, num_pixels=num_pixels, limits=self._settings.limits)
        except PhotoError as error:
            job.refusals.append(f"{rung} cannot take the file whole: {error.message}")
            return False
        return self._take(rung, codec, job, stream, {}, gives_file=True)

    def _try_rung(self, rung: CodecAt, codec: Codec, jobs: Sequence[_Job]) -> None:
        """Encode `jobs`; one whose stream may stand for it gets its row and loses its pixels."""
        images = [job.pixels for job in jobs if job.pixels is not None]
        for job, trial in zip(jobs, try_images(rung, codec, images, self._settings.gate, self._scorer), strict=True):
            if not isinstance(trial, Refusal):
                self._take(rung, codec, job, trial.stream, trial.scores, gives_file=False)
                continue
            job.refusals.append(trial.reason)
            # A gate is there to refuse; a codec is not there to fail.
            log.log(
                logging.DEBUG if trial.stage == "gate" else logging.WARNING, "a codec may not stand for this photo",
                extra={"key": job.row.key, "stage": trial.stage, "codec": str(rung), "reason": trial.reason},
            )  # fmt: skip

    def _take(self, rung: CodecAt, codec: Codec, job: _Job, stream: bytes, scores: Scores, *, gives_file: bool) -> bool:
        """Let `stream` stand for its photo, unless the file may stand and is no larger; return whether it does.

        Args:
            gives_file: whether the stream gives back the file bit for bit.
        """
        assert job.data is not None
        is_larger = len(stream) >= len(job.data)
        if is_larger and self._may_stand(job.data):
            job.refusals.append(f"{rung} made {len(stream)} bytes of {len(job.data)}")
            return False
        recipe = self._recipe.encoded
        if self._settings.keep_original is KeepOriginal.NEVER and not self._may_hold_position(job.data):
            gives_way = is_larger or (isinstance(codec, Transcoder) and not gives_file and codec.takes(job.data))
            recipe = self._recipe.instead_of_file if gives_way else recipe
        num_pixels = (job.row.width or 0) * (job.row.height or 0)
        job.row = replace(
            job.row, outcome=Outcome.ENCODED, image=stream, codec=codec.info.name, model=codec.info.model,
            reason="; ".join(job.refusals) or None, bpp=8 * len(stream) / num_pixels,
            psnr=scores.get("psnr"), ms_ssim=scores.get("ms_ssim"), ssimulacra2=scores.get("ssimulacra2"),
            perceptual=scores.get("perceptual"), lpips=scores.get("lpips"), dists=scores.get("dists"),
            recipe=recipe,
        )  # fmt: skip
        job.pixels = None
        return True


def _with_header(row: EncodedPhoto, header: PhotoHeader) -> EncodedPhoto:
    return replace(
        row,
        format=header.format,
        width=header.width,
        height=header.height,
        mode=header.mode,
        orientation=header.orientation,
        **{name: getattr(header.metadata, name) for name in METADATA_COLUMNS},
    )
