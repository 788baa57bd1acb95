"""Encode a source into an archive.

    list -> manifest (less what the archive holds)
         -> blocks of <= 16 photos, <= 32 MB
         -> read        tasks: bytes and SHA-256
         -> EncodeWorker actors: pixels, codec; one row a photo
         -> driver       gathers rows, writes a shard and commits it every few seconds

The driver writes the shards: rows are small (kilobytes), and exactly once is then one process's matter. The archive is the
checkpoint: a job that dies loses what was not committed, and the same job run again does only what is missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import ray.data
from ray.exceptions import RayError

from pipeline.archive.commit import Archive
from pipeline.archive.schema import SHARD_BYTES
from pipeline.archive.shard_writer import row_bytes
from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions, codec_names
from pipeline.errors import PhotoarkError, SettingError, StorageError
from pipeline.pixels.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.progress import Clock, OnProgress, Progress
from pipeline.quality.gate import NO_GATE, Gate
from pipeline.records import EncodedPhoto, KeepOriginal, Outcome, Photo, encoded_from_table, photos_from_table, photos_to_table
from pipeline.sources.folder import list_photos
from pipeline.sources.manifest import blocks
from pipeline.stages.encode_worker import EncodeSettings, EncodeWorker
from pipeline.stages.job import JobSummary, actor_options, prepare
from pipeline.storage import Storage

BLOCK_PHOTOS = 16
_MAX_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """What to encode, where to, and how."""

    source: str
    archive: str
    codec: str = "ditic-small"
    options: CodecOptions = CodecOptions()
    ladder: tuple[CodecAt, ...] = ()
    """Codecs to try in turn, instead of `codec` alone."""
    gate: Gate = NO_GATE
    """What a decoded stream must reach to stand for its photo."""
    lpips_weights: Path | None = None
    """For a gate that asks for LPIPS."""
    dists_weights: Path | None = None
    """For a gate that asks for DISTS."""
    keep_original: KeepOriginal = KeepOriginal.KEPT
    """When a photo's own bytes are stored."""
    limits: PixelLimits = DEFAULT_LIMITS
    commit_interval_s: float = 5.0
    """At most this much finished work is lost when the job dies."""
    block_photos: int = BLOCK_PHOTOS
    block_bytes: int = 32 << 20
    """Source bytes that travel to an actor at once."""

    def __post_init__(self) -> None:
        if self.codec not in codec_names():
            raise SettingError(f"no codec is called {self.codec!r}; choose one of {', '.join(codec_names())}")
        if self.keep_original is KeepOriginal.NEVER and self.rungs[-1].codec == "original":
            raise SettingError("--keep-original never forbids what the codec `original` does: leave one of them out")

    @property
    def rungs(self) -> tuple[CodecAt, ...]:
        """The ladder, which may have one rung."""
        return self.ladder or (CodecAt(self.codec, self.options.quality),)

    def settings(self) -> EncodeSettings:
        """What a worker needs to know of it."""
        return EncodeSettings(
            ladder=self.rungs,
            gate=self.gate,
            lpips_weights=self.lpips_weights,
            dists_weights=self.dists_weights,
            keep_original=self.keep_original,
            options=self.options,
            limits=self.limits,
        )

    def check(self) -> None:
        """Raise what a worker's constructor would.

        Raises:
            SettingError: a codec or one of its options is wrong.
            CheckpointError: weights are missing or damaged.
        """
        for rung in self.rungs:
            rung.check(self.options)
        self.settings().scorer()


def encode(job: EncodeJob, on_progress: OnProgress = lambda _: None) -> JobSummary:
    """Encode every photo of `job.source` that `job.archive` does not hold.

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveError: the archive can be neither opened nor made.
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    clock = Clock()
    # An error in an actor's constructor would reach us as text, after Ray had tried again and again.
    job.check()
    photos = list_photos(job.source)
    archive = Archive.open_or_create(job.archive)
    done = archive.keys()
    todo = [photo for photo in photos if photo.key not in done]
    summary = process(job, todo, archive.commit, on_progress)
    summary.num_photos, summary.num_skipped, summary.elapsed_s = len(photos), len(photos) - len(todo), clock.elapsed_s
    return summary


def process(
    job: EncodeJob,
    todo: list[Photo],
    commit: Callable[[list[EncodedPhoto]], object],
    on_progress: OnProgress = lambda _: None,
) -> JobSummary:
    """Encode the photos `todo` and hand the rows to `commit`, each once, every `job.commit_interval_s`.

    Raises:
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    committer = _Committer(commit, job.commit_interval_s, Clock())
    cause: BaseException | None = None
    for _ in range(_MAX_TRIES):
        missing = [photo for photo in todo if photo.key not in committer.keys]
        if not missing:
            break
        try:
            for rows in _stream(job, missing):
                committer.add(rows)
                on_progress(committer.progress(len(todo)))
        except RayError as error:
            cause = error
        finally:
            # On an interrupt too: finished work stays.
            committer.flush()
    missing = [photo for photo in todo if photo.key not in committer.keys]
    if missing:
        raise PhotoarkError(
            f"{len(missing)} of {len(todo)} photos were not processed, {missing[0].key!r} the first; the others are in the "
            f"archive. Run the same command again; the last error was: {str(cause).splitlines()[0] if cause else 'none'}"
        )
    return committer.summary


def read_block(table: pa.Table) -> pa.Table:
    """Add `data`, `sha256` and, where a file cannot be read, `reason` to manifest rows."""
    read = [_read(photo) for photo in photos_from_table(table)]
    for i, (name, kind) in enumerate((("data", pa.large_binary()), ("sha256", pa.string()), ("reason", pa.string()))):
        table = table.append_column(name, pa.array([values[i] for values in read], kind))
    return table


def _stream(job: EncodeJob, photos: list[Photo]) -> Iterator[list[EncodedPhoto]]:
    """Lists of finished rows, as the actors finish them."""
    plan = prepare(job.options.device)
    options = replace(job.options, device=plan.device)
    settings = replace(job.settings(), options=options, num_decode_threads=plan.threads_per_actor)
    manifest = [photos_to_table(run) for run in blocks(photos, max_photos=job.block_photos, max_bytes=job.block_bytes)]
    rows = (
        ray.data.from_arrow(manifest)
        .map_batches(read_block, batch_size=None, batch_format="pyarrow", num_cpus=plan.cpus_per_read)
        .map_batches(EncodeWorker, fn_constructor_kwargs={"settings": settings}, **actor_options(plan))
    )
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield encoded_from_table(batch)


def _read(photo: Photo) -> tuple[bytes | None, str | None, str | None]:
    if photo.size_bytes > DEFAULT_LIMITS.max_bytes:
        limit = DEFAULT_LIMITS.max_bytes >> 20
        return None, None, f"the file has {photo.size_bytes >> 20} MiB, more than the limit of {limit} MiB"
    folder, _, name = photo.uri.rpartition("/")
    try:
        data = Storage(folder or "/").read(name)
    except StorageError as error:
        return None, None, error.message
    return data, hashlib.sha256(data).hexdigest(), None


class _Committer:
    """Gathers rows and commits them in time or when there are enough for a shard."""

    def __init__(self, commit: Callable[[list[EncodedPhoto]], object], interval_s: float, clock: Clock) -> None:
        self.summary = JobSummary()
        self.keys: set[str] = set()
        self._commit, self._interval_s, self._clock = commit, interval_s, clock
        self._rows: list[EncodedPhoto] = []
        self._buffered_bytes = 0
        self._committed_at_s = clock.elapsed_s

    def add(self, rows: list[EncodedPhoto]) -> None:
        for row in rows:
            if row.key in self.keys:
                continue  # a block that ran twice: the first result counts
            self.keys.add(row.key)
            self._rows.append(row)
            self._buffered_bytes += row_bytes(row)
            self._count(row)
        if self._buffered_bytes >= SHARD_BYTES or self._clock.elapsed_s - self._committed_at_s >= self._interval_s:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._commit(self._rows)
            self._rows, self._buffered_bytes = [], 0
        self._committed_at_s = self._clock.elapsed_s

    def progress(self, num_total: int) -> Progress:
        return Progress(
            num_done=len(self.keys),
            num_total=num_total,
            num_failed=self.summary.num_failed,
            bytes_done=self.summary.bytes_in,
            elapsed_s=self._clock.elapsed_s,
        )

    def _count(self, row: EncodedPhoto) -> None:
        summary = self.summary
        summary.bytes_in += row.source_bytes
        summary.bytes_out += len(row.image or b"") + len(row.original or b"")
        if row.outcome is Outcome.FAILED:
            summary.fail(row.key, row.reason or "unknown")
            return
        summary.num_pixels += (row.width or 0) * (row.height or 0)
        if row.outcome is Outcome.ENCODED:
            summary.num_encoded += 1
        else:
            summary.num_kept += 1
