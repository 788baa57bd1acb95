"""Decode an archive into image files.

row groups -> read tasks -> DecodeWorker actors: bitstream, pixels, file written -> driver counts
what did not come out, because a process ended -> each photo in a process of its own: a file, or a reason why not

This module checks and looks up what there is to do, and loads neither Ray nor torch for it; `graph` does the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import chain

from pipeline.archive.reader import Archive, count_rows, list_fragments, no_key
from pipeline.decode.destination import failed_rows, written_before
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import failure_of
from pipeline.job_summary import JobSummary
from pipeline.on_ray.resources import bound_read_ahead
from pipeline.progress import Clock, OnProgress, OnWait

log = logging.getLogger(__name__)


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
        on_wait, connect: as for `pipeline.encode.run.encode`.
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
    failed = failed_rows(job, archive, wanted) if job.resume else {}
    num_failed = sum(map(len, failed.values()))
    num_total, num_there = sum(wanted.values()), sum(map(len, there.values()))
    num_todo, took_s = num_total - num_there - num_failed, round(clock.elapsed_s, 3)
    log.info("listed", extra={"stage": "list", "num_photos": num_total, "num_todo": num_todo, "took_s": took_s})
    num_left_out = 0 if job.patterns.takes_all else count_rows(archive) - num_total
    summary = JobSummary(num_photos=num_there + num_failed, num_skipped=num_there, num_left_out=num_left_out)
    for row in chain.from_iterable(failed.values()):
        summary.fail(row.key, failure_of(row).message)
        log.warning("photo failed", extra={"key": row.key, "stage": "read", "reason": summary.failures[-1][1]})
    if num_todo:
        on_wait("starting Ray")
        connect()
        bound_read_ahead()
        from pipeline.decode.graph import run

        on_wait("loading the codec; the first photos are on their way")
        done = {f: there.get(f, frozenset()).union(row.key for row in failed.get(f, ())) for f in wanted}
        left = {f: keys for f, keys in done.items() if len(keys) < wanted[f]}
        run(archive, job, left, summary, num_todo, on_progress, should_stop=should_stop)
    summary.elapsed_s = clock.elapsed_s
    return summary
