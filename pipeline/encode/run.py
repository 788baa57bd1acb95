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

This module checks, lists and compares, and loads neither Ray nor torch for it; `graph` does the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pipeline.archive.writer import ArchiveWriter
from pipeline.encode.changes import Work, count_stored_meanwhile
from pipeline.encode.history import History
from pipeline.encode.job import EncodeJob
from pipeline.job_summary import JobSummary
from pipeline.on_ray.resources import bound_read_ahead
from pipeline.progress import Clock, OnProgress, OnWait
from pipeline.sources.folder import check_places, list_source

if TYPE_CHECKING:
    from pipeline.encode.committer import Commit, Refer

log = logging.getLogger(__name__)


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
    archive = ArchiveWriter.open_or_create(job.archive)
    work = job.find_work(listing, archive)
    num_photos, num_todo, took_s = len(listing.photos), len(work.todo), round(clock.elapsed_s, 3)
    skipped = listing.skipped
    del listing  # as rows come, `work` lets go of theirs: memory does not grow with what is done
    log.info("listed", extra={"stage": "list", "num_photos": num_photos, "num_todo": num_todo, "took_s": took_s})
    summary = process(
        job, work, partial(archive.commit, seen=work.seen, outrun=work.stored_meanwhile), on_progress, on_wait=on_wait,
        history=history, should_stop=should_stop, connect=connect,
        refer=partial(archive.refer, seen=work.seen, outrun=work.stored_meanwhile) if job.dedupe else None,
    )  # fmt: skip
    count_stored_meanwhile(work, job.settings().recipe().made)
    summary.gone_failures = work.gone_failures
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
    bound_read_ahead()
    from pipeline.encode.graph import run

    on_wait("loading the codec; the first photos are on their way")
    return run(job, work, commit, on_progress, history=history or History(), should_stop=should_stop, refer=refer)
