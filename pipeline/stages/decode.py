"""Decode an archive into image files.

row groups -> read tasks -> DecodeWorker actors: bitstream, pixels, file written -> driver counts
what did not come out, because a process ended -> each photo in a process of its own: a file, or a reason why not

This module checks and looks up what there is to do, and loads neither Ray nor torch for it; `decode_on_ray` does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.archive.commit import Archive
from pipeline.archive.shard_reader import count_rows, list_fragments, no_key
from pipeline.codecs.registry import CodecOptions, check_weights
from pipeline.errors import SettingError
from pipeline.patterns import EVERY_KEY, KeyPatterns
from pipeline.pixels.writer import WRITABLE_FORMATS
from pipeline.progress import Clock, OnProgress, OnWait
from pipeline.stages.destination import written_before
from pipeline.stages.resources import DEFAULT_POOL, PoolOptions
from pipeline.stages.summary import JobSummary

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob:
    """What to restore, and where to."""

    archive: str
    destination: str
    patterns: KeyPatterns = EVERY_KEY
    """Which of its keys."""
    format: str | None = None
    """Container of every restored file (Pillow's name); None for the source's own."""
    original: bool = False
    """Hand out the source files' own bytes, where they were stored, instead of what is decoded."""
    resume: bool = False
    """Leave files alone that the same job wrote earlier. Such a file has the photo's time of change or, on a store, which gives
    a file its own, is younger than the row."""
    overwrite: bool = False
    """Replace other files that are where photos are restored to; without it, they stop the job before it begins."""
    options: CodecOptions = CodecOptions()
    batch_photos: int = 32
    pool: PoolOptions = DEFAULT_POOL

    def check_settings(self) -> None:
        """Check what needs no network; loads neither Ray nor torch.

        Raises:
            SettingError: no file of this format can be written.
            CheckpointError: the weights that are named are missing, or of another format.
        """
        if self.format is not None and self.format not in WRITABLE_FORMATS:
            raise SettingError(f"--format {self.format}: choose one of {', '.join(sorted(WRITABLE_FORMATS))}")
        check_weights(self.options)


def decode(
    job: DecodeJob,
    on_progress: OnProgress = lambda _: None,
    *,
    on_wait: OnWait = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    connect: Callable[[], object] = lambda: None,
) -> JobSummary:
    """Restore photos of `job.archive` as files below `job.destination`.

    Args:
        on_wait, connect: as for `pipeline.stages.encode.encode`.
        should_stop: asked after every block and several times a second, from several threads; once it says so, the job ends,
            `stopped`.

    Raises:
        ArchiveNotFoundError: there is no archive.
        ArchiveDamagedError: the footer of a shard is damaged.
        SettingError: a setting is wrong, `job.patterns` take no key, or `destination.written_before` refuses the destination.
        CheckpointError: the weights that are named are missing, or of another format.
    """
    clock = Clock()
    job.check_settings()
    archive = Archive.open(job.archive)
    on_wait(f"looking up the photos of {job.archive}")
    wanted = list_fragments(archive, job.patterns)
    if not wanted and not job.patterns.takes_all:
        raise no_key(job.archive, job.patterns)
    there = written_before(job, archive, wanted)
    num_total, num_there = sum(wanted.values()), sum(map(len, there.values()))
    num_todo, took_s = num_total - num_there, round(clock.elapsed_s, 3)
    log.info("listed", extra={"stage": "list", "num_photos": num_total, "num_todo": num_todo, "took_s": took_s})
    num_left_out = 0 if job.patterns.takes_all else count_rows(archive) - num_total
    summary = JobSummary(num_photos=num_there, num_skipped=num_there, num_left_out=num_left_out)
    if num_todo:
        on_wait("starting Ray")
        connect()
        from pipeline.stages.decode_on_ray import run

        on_wait("loading the codec; the first photos are on their way")
        left = {f: there.get(f, frozenset()) for f in wanted if len(there.get(f, ())) < wanted[f]}
        run(archive, job, left, summary, num_todo, on_progress, should_stop=should_stop)
    summary.elapsed_s = clock.elapsed_s
    return summary
