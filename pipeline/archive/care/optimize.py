"""Merge small shards into large ones, in our own layout: delta-rs would write them without page checksums and with images
spread over compressed pages.

One commit a merged shard takes the small ones out and the large one in, so that every version of the log holds each key
once; a process that dies leaves at most a file that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.archive.log import ShardInfo
from pipeline.archive.schema import SHARD_BYTES
from pipeline.archive.shard_reader import read_shard
from pipeline.archive.shard_writer import write_shard
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizeReport:
    """What was merged, or would be."""

    num_shards_before: int
    num_shards_after: int
    merged: tuple[tuple[str, ...], ...]
    """Shards that became one, each time."""
    merged_bytes: int
    """Of the shards that were read and written again."""


def optimize(archive: ArchiveWriter, *, target_bytes: int = SHARD_BYTES, dry_run: bool = False) -> OptimizeReport:
    """Merge neighbours, in the order of their keys, as long as they stay below `target_bytes` together.

    Shards that another writer took away in the meantime are left alone.

    Raises:
        ArchiveDamagedError: a shard to be merged is missing or damaged; what was merged before it stays.
        StorageError: a shard cannot be written.
    """
    archive.log.refresh()
    num_before = len(archive.shards())
    groups = plan(archive.shards(), target_bytes=target_bytes)
    merged = [group for group in groups if dry_run or _merge(archive, group)]
    return OptimizeReport(
        num_shards_before=num_before,
        num_shards_after=num_before - sum(len(group) - 1 for group in merged),
        merged=tuple(tuple(shard.path for shard in group) for group in merged),
        merged_bytes=sum(shard.size_bytes for group in merged for shard in group),
    )


def plan(shards: Sequence[ShardInfo], *, target_bytes: int) -> list[list[ShardInfo]]:
    """Runs of at least two shards, neighbours by key, of at most `target_bytes` together."""
    runs: list[list[ShardInfo]] = []
    size_bytes = 0
    for shard in sorted(shards, key=lambda shard: (shard.least_key, shard.path)):
        if not runs or size_bytes + shard.size_bytes > target_bytes:
            runs.append([])
            size_bytes = 0
        runs[-1].append(shard)
        size_bytes += shard.size_bytes
    return [run for run in runs if len(run) > 1]


def _merge(archive: ArchiveWriter, group: Sequence[ShardInfo]) -> bool:
    version, paths = archive.log.version, {shard.path for shard in group}
    try:
        rows = [row for shard in group for row in read_shard(archive.storage, shard.path)]
    except ArchiveDamagedError:
        if archive.has_moved_on(version) and not paths <= {shard.path for shard in archive.shards()}:
            return False
        raise
    merged = write_shard(archive.storage, rows)
    while paths <= {shard.path for shard in archive.shards()}:
        # Another writer's commit elsewhere does not change what these shards hold.
        if archive.log.swap(paths, [merged], data_change=False):
            return True
        archive.log.refresh()
    return False
