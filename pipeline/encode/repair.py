"""Make an archive whole again.

    damaged log   -> shards that it no longer names, as far as nobody else holds their keys -> back into it

    damaged shard -> rows that are sound      -> as they are      ┐
                  -> rows that are hurt       -> encoded again    ├-> one commit: the damaged shard out, a new one in
                  -> gone from the source too -> rows that say so ┘

A shard is repaired in one commit, so that a job that dies leaves each shard damaged or whole, and the same job run again does
the rest. The damaged file itself stays where it is until `vacuum`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.archive.care.shard_check import Damage, DamageKind, check_shard
from pipeline.archive.care.verify import VerifyReport
from pipeline.archive.log import ShardInfo
from pipeline.archive.shard_reader import read_shard
from pipeline.archive.shard_writer import render_shard, write_shard
from pipeline.archive.writer import ArchiveWriter
from pipeline.encode.changes import Work
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import process
from pipeline.errors import ArchiveDamagedError, ArchiveError
from pipeline.progress import OnProgress, OnWait
from pipeline.records import EncodedPhoto, Outcome, Photo, failed_row
from pipeline.sources.folder import list_source
from pipeline.sources.selection import ALL, Selection
from pipeline.storage.archive_files import SHARD_NAME

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RepairSummary:
    """What a repair came to."""

    num_shards: int = 0
    """That are whole again."""
    num_rows_kept: int = 0
    """Sound rows of these, taken over."""
    num_encoded: int = 0
    """Rows encoded again from the source."""
    codecs: dict[str, int] = field(default_factory=dict)
    """Codec -> how many photos its streams stand for, of those encoded again."""
    doubtful: list[str] = field(default_factory=list)
    """Keys whose rows were hurt or may be, kept because the source no longer has their photos."""
    failed: list[str] = field(default_factory=list)
    """Keys that could not be read and whose photos cannot be encoded now; their rows say why."""
    lost: list[str] = field(default_factory=list)
    """Keys that neither archive nor source holds any more; their rows say so."""
    num_unnamed: int = 0
    """Rows that a damaged shard held besides, whose keys cannot be read and which the source does not name."""
    unreadable: list[str] = field(default_factory=list)
    """Shards that the store does not hand out at present: nothing was done to them."""
    stopped: bool = False
    """Whether it ended before all was done because it was told to; the damage that is left is found again by `verify`."""

    @property
    def is_complete(self) -> bool:
        """Whether every photo is back, and proven."""
        return not (self.doubtful or self.failed or self.lost or self.num_unnamed or self.unreadable)


@dataclass(slots=True, kw_only=True)
class _Plan:
    """One damaged shard."""

    shard: ShardInfo
    readable: set[str]
    """Keys of rows that can be read, sound or not."""
    hurt: set[str]
    """Keys of rows that must not be taken over without need."""
    repeated: set[str]
    """Keys that another shard holds too."""
    waiting: set[str]
    """Keys that are still to be encoded."""
    is_complete: bool
    """Whether `readable` and `hurt` are all that it held."""
    encoded: list[EncodedPhoto] = field(default_factory=list)


def repair(
    job: EncodeJob,
    report: VerifyReport,
    on_progress: OnProgress = lambda _: None,
    *,
    on_wait: OnWait = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    connect: Callable[[], object] = lambda: None,
) -> RepairSummary:
    """Repair what `report`, of `verify`, found in `job.archive`, from `job.source`.

    Args:
        on_wait, connect: as for `pipeline.encode.run.encode`.
        should_stop: as there; shards whose photos were all encoded by then are whole again.

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveNotFoundError: there is no archive.
        PhotoarkError: part of the photos could not be processed; shards that were finished are repaired.
    """
    job.check_settings()
    on_wait(f"listing {job.source}")
    # All: the archive may hold what would not be selected today.
    photos = {photo.key: photo for photo in list_source(job.source, ALL).photos}
    archive, summary = ArchiveWriter.open(job.archive), RepairSummary()
    if any(damage.kind is DamageKind.LOG for damage in report.damages):
        summary.num_rows_kept += _mend_log(archive, report)
    damaged = {damage.shard for damage in report.damages}
    plans = _plans(archive, report, photos, job.selection, summary)
    plans_of: dict[str, list[_Plan]] = {}
    for plan in plans:
        for key in plan.waiting:
            plans_of.setdefault(key, []).append(plan)

    def finish() -> None:
        for plan in [plan for plan in plans if not plan.waiting]:
            _finish(archive, plan, damaged, summary)
            plans.remove(plan)
            damaged.discard(plan.shard.path)

    def take(rows: list[EncodedPhoto]) -> None:
        for row in rows:
            for plan in plans_of[row.key]:
                plan.encoded.append(row)
                plan.waiting.discard(row.key)
        finish()

    finish()
    work = Work(todo={key: photos[key] for key in plans_of})
    log.info("listed", extra={"stage": "list", "num_photos": len(photos), "num_todo": len(work.todo)})
    done = process(job, work, take, on_progress, on_wait=on_wait, should_stop=should_stop, connect=connect)
    summary.stopped, summary.codecs = done.stopped, done.codecs
    return summary


def _mend_log(archive: ArchiveWriter, report: VerifyReport) -> int:
    """Take shards that the log lost back into it; returns how many rows."""
    known = archive.keys(ignore={damage.shard for damage in report.damages})
    back: list[EncodedPhoto] = []
    for path in (orphan.path for orphan in report.orphans if SHARD_NAME.fullmatch(orphan.path)):
        with contextlib.suppress(ArchiveDamagedError):
            back += [row for row in read_shard(archive.storage, path) if row.key not in known]
    rows = list({row.key: row for row in back}.values())
    shards = [write_shard(archive.storage, rows)] if rows else []
    if not archive.log.swap([], shards, accept_log=True):
        raise ArchiveError(f"{archive.storage.url}: another writer was faster; run the command again")
    return len(rows)


def _plans(
    archive: ArchiveWriter, report: VerifyReport, photos: dict[str, Photo], selection: Selection, summary: RepairSummary
) -> list[_Plan]:
    damaged = {damage.shard for damage in report.damages}
    plans = []
    for shard in sorted(archive.shards(), key=lambda shard: shard.least_key):
        if shard.path in damaged:
            plan = _plan(archive, shard, [damage for damage in report.damages if damage.shard == shard.path])
            if plan is None:
                summary.unreadable.append(shard.path)
            else:
                plan.waiting = plan.hurt & photos.keys()
                plans.append(plan)
    if all(plan.is_complete for plan in plans):
        return plans
    taken = archive.keys(ignore=damaged).union(*(plan.readable | plan.hurt for plan in plans))
    for plan in plans:
        if not plan.is_complete:
            # Its keys cannot be read: it may have held whatever of the source lies between its bounds and nowhere else.
            between = {key for key in photos if plan.shard.least_key <= key <= plan.shard.greatest_key}
            guessed = {key for key in between - taken if selection.takes(key)}
            plan.waiting |= guessed
            taken |= guessed
    return plans


def _plan(archive: ArchiveWriter, shard: ShardInfo, reported: list[Damage]) -> _Plan | None:
    """What is to be done about one shard; None if the store does not hand it out."""
    found = check_shard(archive.storage, shard)
    if any(damage.kind is DamageKind.UNREADABLE for damage in found.damages):
        return None
    damages = [damage for damage in found.damages if damage.kind in (DamageKind.BYTES, DamageKind.MISSING)]
    if found.doubtful_rows and render_shard(found.doubtful_rows)[0].path == shard.path:
        damages = []  # written again they are the very file that was committed, so none of them was hurt
    is_complete = all(damage.all_keys_known for damage in damages)
    # That a row contradicts itself or does not decode is known from the report alone.
    damages += [damage for damage in reported if damage.kind is DamageKind.ROW]
    return _Plan(
        shard=shard,
        readable={row.key for row in (*found.rows, *found.doubtful_rows)},
        # Where the log says nothing of a shard, its bounds are no keys.
        hurt={key for damage in damages if damage.all_keys_known or shard.num_rows >= 0 for key in damage.keys},
        repeated={key for damage in reported if damage.kind is DamageKind.DUPLICATE for key in damage.keys},
        waiting=set(),
        is_complete=is_complete,
    )


def _finish(archive: ArchiveWriter, plan: _Plan, damaged: set[str], summary: RepairSummary) -> None:
    """Put a shard's rows in its place."""
    found = check_shard(archive.storage, plan.shard)
    rows = {row.key: row for row in (*found.doubtful_rows, *found.rows)}
    for key in plan.repeated & rows.keys():
        if rows[key].outcome is Outcome.FAILED:
            del rows[key]  # the other is at least as good, and stays where it is
    fresh = {row.key: row for row in plan.encoded if row.outcome is not Outcome.FAILED or row.key not in rows}
    lost = plan.hurt - rows.keys() - fresh.keys() - plan.repeated
    summary.num_shards += 1
    summary.num_rows_kept += len(rows.keys() - plan.hurt - fresh.keys())
    summary.doubtful += sorted((rows.keys() & plan.hurt) - fresh.keys())
    summary.num_encoded += sum(row.outcome is not Outcome.FAILED for row in fresh.values())
    summary.failed += sorted(row.key for row in fresh.values() if row.outcome is Outcome.FAILED)
    summary.lost += sorted(lost)
    rows |= fresh
    rows |= {key: _lost_row(key, plan.shard) for key in lost}
    summary.num_unnamed += max(0, plan.shard.num_rows - len(rows) - len(plan.repeated))
    archive.put(list(rows.values()), drop=[plan.shard.path], ignore=damaged - {plan.shard.path})


def _lost_row(key: str, shard: ShardInfo) -> EncodedPhoto:
    reason = f"lost: shard {shard.path} was damaged, and the source no longer had the photo when it was repaired"
    return failed_row(key, reason)
