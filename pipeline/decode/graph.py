"""The graph of a decode job on Ray: row groups go through tasks that read and actors that decode and write."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import cast

import pyarrow as pa
import ray.data

from pipeline.archive.reader import Archive, Fragment, find, read_fragment, resolve
from pipeline.decode.job import DecodeJob
from pipeline.decode.worker import DecodeSettings, DecodeWorker, not_restored
from pipeline.errors import ArchiveDamagedError
from pipeline.job_summary import JobSummary
from pipeline.on_ray.isolation import each_alone
from pipeline.on_ray.limits import until
from pipeline.on_ray.logs import log_rows
from pipeline.on_ray.pool import actor_options, prepare
from pipeline.on_ray.resources import PoolPlan
from pipeline.on_ray.work import STAGE, with_ends
from pipeline.patterns import KeyPatterns
from pipeline.progress import Clock, OnProgress, Progress
from pipeline.records import STREAM_COLUMNS, Outcome, encoded_from_table, encoded_to_table, failed_row
from pipeline.storage.base import Storage


def run(
    archive: Archive,
    job: DecodeJob,
    fragments: Mapping[Fragment, Collection[str]],
    summary: JobSummary,
    num_todo: int,
    on_progress: OnProgress,
    *,
    should_stop: Callable[[], bool],
) -> None:
    """Restore the photos of `fragments` on the Ray that this process is connected to, and count them in `summary`.

    Args:
        fragments: row group -> keys to leave out.
        summary: of what is there already; takes up the rest.
        num_todo: photos to restore.
    """
    clock, num_total = Clock(), summary.num_photos + num_todo
    plan = prepare(job.options.device, job.pool, num_todo)
    settings = DecodeSettings(
        destination=Storage(job.destination).url,
        options=replace(job.options, device=plan.device),
        format=job.format,
        original=job.original,
        overwrite=job.overwrite,
        num_write_threads=plan.threads_per_actor,
    )
    done: set[str] = set()
    with (
        # Not when they are collected: Ray would be gone by then.
        closing(_stream(archive, job, fragments, settings, plan)) as stream,
        closing(_each_alone(archive, job, fragments, settings, plan, done)) as rest,
    ):
        for batch in until(should_stop, chain(stream, rest)):
            log_rows(batch)
            for row in batch.to_pylist():
                summary.num_photos += 1
                done.add(row["key"])
                if row["reason"] is not None:
                    summary.fail(row["key"], row["reason"])
                    summary.num_unwritten += row[STAGE] == "write"
                    continue
                summary.num_restored += 1
                summary.bytes_out += row["num_bytes"]
                summary.num_pixels += row["num_pixels"]
            on_progress(
                Progress(
                    num_done=summary.num_photos,
                    num_total=num_total,
                    num_failed=summary.num_failed,
                    bytes_done=summary.bytes_out,
                    elapsed_s=clock.elapsed_s,
                )
            )
    summary.stopped = summary.num_photos < num_total and should_stop()


def _stream(
    archive: Archive, job: DecodeJob, fragments: Mapping[Fragment, Collection[str]], settings: DecodeSettings, plan: PoolPlan
) -> Generator[pa.Table, None, None]:
    """Results of the photos of `fragments`, but for keys to be left out; blocks whose actor dies are left out."""
    items = [
        {"path": f.path, "row_group": f.row_group, "num_rows": f.num_rows, "skip": sorted(skip)}
        for f, skip in fragments.items()
    ]
    results = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            partial(read_rows, archive_url=archive.storage.url, patterns=job.patterns, original=job.original),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=plan.cpus_per_read,
        )
        .map_batches(
            DecodeWorker,
            fn_constructor_kwargs={"settings": settings},
            **(actor_options(plan) | {"batch_size": job.batch_photos}),
        )
    )
    yield from cast(Iterator[pa.Table], results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))


def _each_alone(
    archive: Archive,
    job: DecodeJob,
    fragments: Mapping[Fragment, Collection[str]],
    settings: DecodeSettings,
    plan: PoolPlan,
    done: Collection[str],
) -> Generator[pa.Table, None, None]:
    """As `_stream`, of the photos that, when this is first asked, are not `done`."""
    if job.patterns.takes_all and len(done) == sum(fragment.num_rows - len(skip) for fragment, skip in fragments.items()):
        return
    missing = [key for key in _keys(archive.storage, fragments, job.patterns) if key not in done]
    if not missing:
        return
    tables = {key: partial(_row_of, archive.storage.url, key, original=job.original) for key in missing}
    for key, attempt, result in each_alone(DecodeWorker, settings, plan, tables):
        if isinstance(result, str):
            yield not_restored(key, result, "isolate", attempt)
        else:
            yield with_ends(result, result[STAGE].to_pylist(), attempt)


def _keys(storage: Storage, fragments: Mapping[Fragment, Collection[str]], patterns: KeyPatterns) -> Iterator[str]:
    """Keys of what was to be restored, but for damaged row groups, which were told of."""
    for fragment, skip in fragments.items():
        try:
            keys = read_fragment(storage, fragment, ["key"])["key"].to_pylist()
        except ArchiveDamagedError:
            continue
        yield from (key for key in keys if key not in skip and patterns.takes(key))


def _row_of(archive_url: str, key: str, *, original: bool) -> pa.Table:
    return encoded_to_table([find(Archive.open(archive_url), key, with_original=original)])


def read_rows(fragments: pa.Table, *, archive_url: str, patterns: KeyPatterns, original: bool = False) -> pa.Table:
    """Rows of row groups; a row group that is damaged becomes rows that say so, one a photo where the keys survive."""
    storage = Storage(archive_url)
    tables = []
    for item in fragments.to_pylist():
        skip = frozenset(item.pop("skip"))
        fragment = Fragment(**item)
        try:
            table = read_fragment(storage, fragment, None if original else STREAM_COLUMNS)
        except ArchiveDamagedError as error:
            table = _damaged(storage, fragment, error)
        if skip or not patterns.takes_all:
            keys = table["key"].to_pylist()
            is_wanted = [key not in skip and patterns.takes(key) for key in keys]
            table = table.filter(pa.array(is_wanted, pa.bool_()))
        tables.append(_with_streams(table, archive_url, original=original))
    # A row group of an earlier version lacks columns.
    return pa.concat_tables(tables, promote_options="default")


def _with_streams(table: pa.Table, archive_url: str, *, original: bool) -> pa.Table:
    """`table`, where rows that are the same as another have its stream, or say why not."""
    if "same_as" not in table.column_names or table["same_as"].null_count == table.num_rows:
        return table
    archive, rows = Archive.open(archive_url), []
    for row in encoded_from_table(table):
        try:
            rows.append(resolve(archive, row, with_original=original))
        except ArchiveDamagedError as error:
            rows.append(replace(row, outcome=Outcome.FAILED, reason=error.message))
    return encoded_to_table(rows)


def _damaged(storage: Storage, fragment: Fragment, error: ArchiveDamagedError) -> pa.Table:
    try:
        keys = read_fragment(storage, fragment, ["key"])["key"].to_pylist()
    except ArchiveDamagedError:
        keys = [f"{fragment.path}, row group {fragment.row_group}"]
    return encoded_to_table(failed_row(key, error.message) for key in keys)
