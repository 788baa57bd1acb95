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

This module checks, lists and compares, and loads neither Ray nor torch for it; `encode_on_ray` does what there is to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.archive.commit import Archive
from pipeline.codecs.points import CodecAt, codecs_at
from pipeline.codecs.registry import CodecOptions, codec_names, is_generative, uses_gpu
from pipeline.errors import SettingError
from pipeline.pixels.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.sandbox import read_pixels
from pipeline.progress import Clock, OnProgress, OnWait
from pipeline.quality.gate import NO_GATE, Gate
from pipeline.records import EncodedPhoto, KeepOriginal
from pipeline.sources.folder import Listing, check_places, list_source
from pipeline.sources.selection import DEFAULT_SELECTION, Selection
from pipeline.stages.changes import Work, find_work
from pipeline.stages.encode_settings import EncodeSettings, MakeCodecs, ReadPixels
from pipeline.stages.history import History
from pipeline.stages.resources import DEFAULT_POOL, PoolOptions
from pipeline.stages.summary import JobSummary

if TYPE_CHECKING:
    from pipeline.stages.committer import Commit, Refer

log = logging.getLogger(__name__)


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
    """Let photos of the same bytes share the stream of the first of them; streams of earlier jobs by the same recipe too."""
    recode: bool = False
    """Encode photos again whose rows another recipe made; each row is replaced in one commit, and stays where that fails."""
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

    def find_work(self, listing: Listing, archive: Archive | None) -> Work:
        """What there is to do: as `pipeline.stages.changes.find_work`."""
        recipe = self.settings().recipe()
        # Where a row of an earlier version does not tell its recipe, at least nothing is known that it lacks.
        is_plain = not self.gate and not self.strip_gps and self.keep_original is KeepOriginal.KEPT

        def may_share(row: EncodedPhoto) -> bool:
            made = recipe.made(row)
            return is_plain if made is None else made

        return find_work(
            listing.photos, archive, is_gone=listing.lacks, checksum=self.checksum,
            may_share=may_share if self.dedupe else lambda _: False, made=recipe.made, recode=self.recode,
        )  # fmt: skip

    def check_settings(self) -> None:
        """Check what needs no network: names, qualities, and that files are there. Loads neither Ray nor torch.

        Raises:
            SettingError: a codec or one of its options is wrong, or the gate needs weights that are not named.
            CheckpointError: weights are missing, or of another format.
        """
        for rung in self.rungs if self.codecs is codecs_at else ():
            rung.check_options(self.options)
        self.settings().check_gate()

    def check(self) -> None:
        """Raise what a worker's constructor would; loads torch where a codec or the gate needs it.

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
    on_wait: OnWait = lambda _: None,
    history: History | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    connect: Callable[[], object] = lambda: None,
) -> JobSummary:
    """Encode every photo of `job.source` that `job.archive` does not hold, or holds an earlier version of.

    Rows whose photos are gone stay. Where another job was faster with a photo, `archive.compare.takes_place` decides.

    Args:
        on_wait: is told what the job does while there is no progress to show.
        history: takes up what was done when.
        should_stop: asked after every block and several times a second, from several threads; once it says so, the job
            commits what is finished and ends, `stopped`.
        connect: called once, before Ray is needed, and only if there is work to do. By default a Ray that is not there yet
            is started on this machine.

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveError: the archive can be neither opened nor made.
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    clock = Clock()
    job.check_settings()
    check_places(job.source, job.archive)
    on_wait(f"listing {job.source}")
    listing = list_source(job.source, job.selection)
    on_wait(f"comparing {len(listing.photos)} photos with the archive")
    archive = Archive.open_or_create(job.archive)
    work = job.find_work(listing, archive)
    num_photos, num_todo, took_s = len(listing.photos), len(work.todo), round(clock.elapsed_s, 3)
    skipped = listing.skipped
    del listing  # as rows come, `work` lets go of theirs: memory does not grow with what is done
    log.info("listed", extra={"stage": "list", "num_photos": num_photos, "num_todo": num_todo, "took_s": took_s})
    summary = process(
        job, work, partial(archive.commit, seen=work.seen), on_progress, on_wait=on_wait, history=history,
        should_stop=should_stop, connect=connect, refer=partial(archive.refer, seen=work.seen) if job.dedupe else None,
    )  # fmt: skip
    summary.num_photos, summary.num_gone, summary.elapsed_s = num_photos, work.num_gone, clock.elapsed_s
    summary.num_skipped += work.num_unchanged
    summary.num_other_recipe += work.other_recipes.total()
    summary.other_recipes, summary.num_unknown_recipe = dict(work.other_recipes), work.num_unknown_recipe
    summary.skipped = skipped
    return summary


def process(
    job: EncodeJob,
    work: Work,
    commit: Commit,
    on_progress: OnProgress = lambda _: None,
    *,
    on_wait: OnWait = lambda _: None,
    history: History | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    connect: Callable[[], object] = lambda: None,
    refer: Refer | None = None,
) -> JobSummary:
    """Encode the photos `work.todo` and hand the rows to `commit`, each once, in time (`Committer`), from a thread.

    Where there is nothing to do, neither Ray nor torch is loaded.

    Args:
        work: what is to be done, of which nothing is left in the end; a photo whose bytes are those that the archive holds
            already is not encoded again.
        refer: takes rows of photos that have the same bytes as another, and returns those whose time has not come;
            None: all are encoded.
        on_wait, history, should_stop, connect: as for `encode`.

    Raises:
        SettingError: a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        PhotoarkError: part of the photos could not be processed; what was is committed.
    """
    num_todo = len(work.todo)
    if not num_todo:
        return JobSummary(not_stored=work.not_stored)
    on_wait("checking the codec")
    # An error in an actor's constructor would reach us as text, after Ray had tried again and again.
    job.check()
    on_wait("starting Ray")
    connect()
    from pipeline.stages.encode_on_ray import run

    on_wait("loading the codec; the first photos are on their way")
    return run(
        job, work, commit, on_progress, history=history or History(), should_stop=should_stop, refer=refer
    )  # fmt: skip
