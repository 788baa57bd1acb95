"""Encode a source into an archive.

    list -> manifest (less what the archive holds of the same version)
         -> blocks of <= 16 photos, <= 32 MB
         -> read        tasks: bytes and SHA-256
         -> EncodeWorker actors: pixels, codec; one row a photo
         -> driver       gathers rows, writes a shard and commits it every few seconds; rows of changed photos take the
                         place of the old ones, and what has the same bytes as another photo refers to its row
    what did not come out, because a process ended -> each photo in a process of its own: a row, or a row that says why not

The driver writes the shards: rows are small (kilobytes), and exactly once is then one process's matter. The archive is the
checkpoint: a job that dies loses what was not committed, and the same job run again does only what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

import pyarrow as pa
import ray.data
from ray.exceptions import RayError

from pipeline.archive.commit import Archive
from pipeline.codecs.points import CodecAt, codecs_at
from pipeline.codecs.registry import CodecOptions, codec_names, is_generative, uses_gpu
from pipeline.errors import PhotoarkError, SettingError
from pipeline.pixels.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.sandbox import read_pixels
from pipeline.progress import Clock, OnProgress
from pipeline.quality.gate import NO_GATE, Gate
from pipeline.records import (
    EncodedPhoto,
    KeepOriginal,
    Outcome,
    Photo,
    encoded_from_table,
    encoded_to_table,
    photos_to_table,
)
from pipeline.sources.folder import list_source
from pipeline.sources.manifest import blocks
from pipeline.sources.selection import DEFAULT_SELECTION, Selection
from pipeline.stages.changes import Work, find_work
from pipeline.stages.committer import Commit, Committer, Refer
from pipeline.stages.encode_worker import EncodeSettings, EncodeWorker, MakeCodecs, ReadPixels
from pipeline.stages.history import History
from pipeline.stages.isolation import each_alone
from pipeline.stages.job import JobSummary, actor_options, prepare
from pipeline.stages.logs import log_rows
from pipeline.stages.metrics import record_state
from pipeline.stages.reading import KNOWN, read_block, start_claims
from pipeline.stages.resources import DEFAULT_POOL, MIN_BLOCK_PHOTOS, PoolOptions, PoolPlan
from pipeline.stages.until import until
from pipeline.stages.work import STAGE, TRIES_ALONE, TRIES_TOGETHER, split_work, with_ends, with_no_work

log = logging.getLogger(__name__)
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
    strip_gps: bool = False
    """Leave GPS data out."""
    limits: PixelLimits = DEFAULT_LIMITS
    selection: Selection = DEFAULT_SELECTION
    """Which files of the source to take."""
    checksum: bool = False
    """Read photos that look unchanged too: their SHA-256 decides."""
    dedupe: bool = False
    """Let photos of the same bytes share the stream of the first of them; streams of earlier jobs by the same codec too, if
    this one neither measures nor leaves out nor adds anything (`gate`, `strip_gps`, `keep_original`)."""
    commit_interval_s: float = 10.0
    """What an actor begins is committed when so much time is over, and so a job that dies repeats no more of each actor's work.
    Blocks are made to take half of it, with a codec of the usual speed (`PoolPlan.block_bytes`)."""
    block_photos: int | None = None
    """None: as many as suit the pool, `MAX_BLOCK_PHOTOS` at most."""
    block_bytes: int = 32 << 20
    """At most so many source bytes travel to an actor at once; fewer with a short `commit_interval_s`."""
    pool: PoolOptions = DEFAULT_POOL
    codecs: MakeCodecs = codecs_at
    """Makes the codecs of the ladder; other than the registry's for who measures a pipeline without them."""
    read_pixels: ReadPixels = read_pixels
    """As of `EncodeSettings`."""

    def __post_init__(self) -> None:
        if self.codec not in codec_names():
            raise SettingError(f"no codec is called {self.codec!r}; choose one of {', '.join(codec_names())}")
        if self.keep_original is KeepOriginal.NEVER and self.rungs[-1].codec == "original":
            raise SettingError("--keep-original never forbids what the codec `original` does: leave one of them out")
        if self.strip_gps and self.keep_original is KeepOriginal.ALWAYS:
            raise SettingError("--keep-original always stores GPS data, which --strip-gps leaves out: leave one of them out")

    @property
    def rungs(self) -> tuple[CodecAt, ...]:
        """The ladder, which may have one rung."""
        return self.ladder or (CodecAt(self.codec, self.options.quality),)

    @property
    def generative_codecs(self) -> tuple[str, ...]:
        """Those of its codecs that synthesise detail."""
        return tuple(dict.fromkeys(rung.codec for rung in self.rungs if is_generative(rung.codec)))

    @property
    def is_neural(self) -> bool:
        """Whether one of its codecs can use a GPU."""
        return any(uses_gpu(rung.codec) for rung in self.rungs)

    @property
    def device(self) -> str:
        """Where its codecs run; codecs that use no GPU need no actor that holds one."""
        return self.options.device if self.is_neural else "cpu"

    def settings(self) -> EncodeSettings:
        """What a worker needs to know of it."""
        return EncodeSettings(
            ladder=self.rungs,
            gate=self.gate,
            lpips_weights=self.lpips_weights,
            dists_weights=self.dists_weights,
            keep_original=self.keep_original,
            strip_gps=self.strip_gps,
            options=self.options,
            limits=self.limits,
            codecs=self.codecs,
            read_pixels=self.read_pixels,
        )

    def may_share(self, row: EncodedPhoto) -> bool:
        """Whether this job's photos may share the stream that an earlier job left in `row`, whose quality it does not tell."""
        is_plain = not self.gate and not self.strip_gps and self.keep_original is KeepOriginal.KEPT
        is_like = row.outcome is Outcome.KEPT or row.codec in {rung.codec for rung in self.rungs}
        return self.dedupe and is_plain and is_like

    def check(self) -> None:
        """Raise what a worker's constructor would.

        Raises:
            SettingError: a codec or one of its options is wrong.
            CheckpointError: weights are missing or damaged.
        """
        for rung in self.rungs if self.codecs is codecs_at else ():
            rung.check(self.options)
        self.settings().scorer()


def encode(
    job: EncodeJob,
    on_progress: OnProgress = lambda _: None,
    *,
    history: History | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> JobSummary:
    """Encode every photo of `job.source` that `job.archive` does not hold, or holds an earlier version of.

    Rows whose photos are gone stay. Where another job was faster with a photo, `archive.compare.takes_place` decides.

    Args:
        history: takes up what was done when.
        should_stop: asked after every block and several times a second, from several threads; once it says so, the job
            commits what is finished and ends, `stopped`.

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveError: the archive can be neither opened nor made.
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    clock = Clock()
    # An error in an actor's constructor would reach us as text, after Ray had tried again and again.
    job.check()
    listing = list_source(job.source, job.selection)
    archive = Archive.open_or_create(job.archive)
    work = find_work(listing.photos, archive, selection=job.selection, checksum=job.checksum, may_share=job.may_share)
    num_photos, num_todo, took_s = len(listing.photos), len(work.todo), round(clock.elapsed_s, 3)
    skipped = listing.skipped
    del listing  # as rows come, `work` lets go of theirs: memory does not grow with what is done
    log.info("listed", extra={"stage": "list", "num_photos": num_photos, "num_todo": num_todo, "took_s": took_s})
    summary = process(
        job, work, partial(archive.commit, seen=work.seen), on_progress, history=history, should_stop=should_stop,
        refer=partial(archive.refer, seen=work.seen) if job.dedupe else None,
    )  # fmt: skip
    summary.num_photos, summary.num_gone, summary.elapsed_s = num_photos, work.num_gone, clock.elapsed_s
    summary.num_skipped += work.num_unchanged
    summary.skipped = skipped
    return summary


def process(
    job: EncodeJob,
    work: Work,
    commit: Commit,
    on_progress: OnProgress = lambda _: None,
    *,
    history: History | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    refer: Refer | None = None,
) -> JobSummary:
    """Encode the photos `work.todo` and hand the rows to `commit`, each once, in time (`Committer`), from a thread.

    Args:
        work: what is to be done, of which nothing is left in the end; a photo whose bytes are those that the archive holds
            already is not encoded again.
        refer: takes rows of photos that have the same bytes as another, and returns those whose time has not come;
            None: all are encoded.

    Raises:
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    history = history or History()
    left, num_todo = work.todo, len(work.todo)
    cause: BaseException | None = None
    with Committer(commit, refer, work, job.commit_interval_s, history) as committer:
        for i in range(_MAX_TRIES):
            if not left:
                break
            try:
                # What waited in vain for the row of another photo is encoded by itself.
                stream = _stream(job, list(left.values()), work, share=refer is not None and i == 0)
                rest = _each_alone(job, left)
                for table in until(should_stop, chain(stream, rest)):
                    log_rows(table, tries_before=i * (TRIES_TOGETHER + TRIES_ALONE))
                    rows, done = split_work(table)
                    committer.add(encoded_from_table(rows), done)
                    record_state(backlog_photos=len(left), codec_busy_ratio=history.busy_ratio())
                    on_progress(committer.progress(num_todo))
                if left and should_stop():
                    committer.summary.stopped = True
                    return committer.summary
            except RayError as error:
                cause = error
            finally:
                # Not when they are collected: Ray would be gone by then.
                stream.close()
                rest.close()
            committer.flush()
            committer.release()
    if left:
        raise PhotoarkError(
            f"{len(left)} of {num_todo} photos were not processed, {next(iter(left))!r} the first; the others are in the "
            f"archive. Run the same command again; the last error was: {str(cause).splitlines()[0] if cause else 'none'}"
        )
    return committer.summary


def _stream(job: EncodeJob, photos: list[Photo], work: Work, *, share: bool) -> Generator[pa.Table, None, None]:
    """Finished rows and work, as the actors finish them; blocks whose actor dies are left out."""
    plan, settings = _plan(job, len(photos))
    # Not `from_arrow`: a task a block at the start, and 45 KB of each for as long as the job runs.
    manifest = ray.data.from_blocks(_manifest(job, plan, photos, work))
    del photos  # each may go when its row has come
    claims = start_claims(work.holders) if share else None
    rows = (
        manifest.map_batches(
            partial(read_block, claims=claims), batch_size=None, batch_format="pyarrow", num_cpus=plan.cpus_per_read
        )
        # As `map_batches`, which wants batches of so many rows where there are GPUs: a block is what an actor takes here.
        .map_batches_internal(EncodeWorker, fn_constructor_kwargs={"settings": settings}, **actor_options(plan))
    )
    yield from cast(Iterator[pa.Table], rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _manifest(job: EncodeJob, plan: PoolPlan, photos: list[Photo], work: Work) -> list[pa.Table]:
    """Blocks, in the order of the photos."""
    max_bytes = min(job.block_bytes, plan.block_bytes(job.commit_interval_s / 2, is_neural=job.is_neural))
    runs = blocks(
        photos, max_photos=job.block_photos or plan.block_photos, max_bytes=max_bytes, min_photos=MIN_BLOCK_PHOTOS,
        num_takers=plan.max_actors,
    )  # fmt: skip
    return [
        photos_to_table(run).append_column(KNOWN, pa.array([work.known_sha256(photo.key) for photo in run], pa.string()))
        for run in runs
    ]


def _each_alone(job: EncodeJob, photos: Mapping[str, Photo]) -> Generator[pa.Table, None, None]:
    """Rows and work of those that are in `photos` when this is first asked."""
    left = dict(photos)
    if not left:
        return
    plan, settings = _plan(job, len(left))
    tables = {key: partial(read_block, photos_to_table([photo])) for key, photo in left.items()}
    for key, attempt, result in each_alone(EncodeWorker, settings, plan, tables):
        if isinstance(result, str):
            yield with_no_work(encoded_to_table([_failed(left[key], result)]), "isolate", attempt)
        else:
            yield with_ends(result, result[STAGE].to_pylist(), attempt)


def _plan(job: EncodeJob, num_photos: int) -> tuple[PoolPlan, EncodeSettings]:
    plan = prepare(job.device, job.pool, num_photos)
    options = replace(job.options, device=plan.device)
    return plan, replace(job.settings(), options=options, num_decode_threads=plan.threads_per_actor)


def _failed(photo: Photo, reason: str) -> EncodedPhoto:
    return EncodedPhoto(
        key=photo.key, image=None, codec=None, model=None, outcome=Outcome.FAILED, reason=reason, source_uri=photo.uri,
        source_bytes=photo.size_bytes, source_etag=photo.etag, modified_at=photo.modified_at, encoded_at=datetime.now(UTC),
    )  # fmt: skip
