"""The graph of an encode job on Ray: blocks go through tasks that read and actors that encode, rows to a `Committer`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import cast

import pyarrow as pa
import ray.data
from ray.exceptions import RayError

from pipeline.encode.changes import Work
from pipeline.encode.committer import Commit, Committer, Refer
from pipeline.encode.history import History
from pipeline.encode.job import EncodeJob
from pipeline.encode.read import KNOWN, read_block
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
from pipeline.errors import PhotoarkError
from pipeline.job_summary import JobSummary
from pipeline.on_ray.claims import start_claims
from pipeline.on_ray.isolation import each_alone
from pipeline.on_ray.limits import until
from pipeline.on_ray.logs import log_rows
from pipeline.on_ray.pool import actor_options, prepare
from pipeline.on_ray.resources import MIN_BLOCK_PHOTOS, PoolPlan, largest_file_bytes
from pipeline.on_ray.telemetry import record_state
from pipeline.on_ray.work import STAGE, TRIES_ALONE, TRIES_TOGETHER, split_work, with_ends, with_no_work
from pipeline.progress import OnProgress
from pipeline.records import EncodedPhoto, Photo, encoded_from_table, encoded_to_table, failed_row, photos_to_table
from pipeline.sources.manifest import blocks

_MAX_TRIES = 3


def run(
    job: EncodeJob,
    work: Work,
    commit: Commit,
    on_progress: OnProgress,
    *,
    history: History,
    should_stop: Callable[[], bool],
    refer: Refer | None,
) -> JobSummary:
    """Do what `pipeline.encode.run.process` promises, on the Ray that this process is connected to."""
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
    claim = start_claims(work.holders) if share else None
    rows = (
        manifest.map_batches(
            partial(read_block, claim=claim, max_bytes=largest_file_bytes(job.limits.max_bytes)),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=plan.cpus_per_read,
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
    max_bytes = largest_file_bytes(job.limits.max_bytes)
    tables = {key: partial(read_block, photos_to_table([photo]), max_bytes=max_bytes) for key, photo in left.items()}
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
    return failed_row(
        photo.key, reason, source_uri=photo.uri, source_bytes=photo.size_bytes, source_etag=photo.etag,
        modified_at=photo.modified_at, encoded_at=datetime.now(UTC),
    )  # fmt: skip
