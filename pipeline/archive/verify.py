"""Prove that an archive is whole: every shard there, every page as it was written, every key once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.archive.commit import Archive
from pipeline.archive.shard_reader import open_shard
from pipeline.errors import ArchiveDamagedError, PhotoarkError
from pipeline.records import EncodedPhoto, Outcome, encoded_from_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One thing that is not as it should be."""

    shard: str
    key: str | None
    """None where the whole shard is hurt."""
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was looked at and what was found."""

    num_shards: int
    num_rows: int
    num_decoded: int
    damages: tuple[Damage, ...]

    @property
    def is_clean(self) -> bool:
        return not self.damages


def verify(archive: Archive, decode: Callable[[EncodedPhoto], None] | None = None) -> VerifyReport:
    """Read every row of `archive`.

    Args:
        decode: called with each row that has a bitstream; raises a `PhotoarkError` when it does not decode.
    """
    damages: list[Damage] = []
    shards = archive.shards()
    seen: set[str] = set()
    num_rows = num_decoded = 0
    for shard in shards:
        rows_here = 0
        try:
            with open_shard(archive.storage, shard.path) as file:
                for i in range(file.num_row_groups):
                    rows = encoded_from_table(file.read_row_group(i))
                    rows_here += len(rows)
                    for row in rows:
                        faults = [*_faults(row, seen)]
                        if decode is not None and row.outcome is Outcome.ENCODED and not faults:
                            num_decoded += 1
                            faults += _decode_faults(row, decode)
                        damages += [Damage(shard=shard.path, key=row.key, what=fault) for fault in faults]
        except ArchiveDamagedError as error:
            where = f"{error.message}; keys {shard.least_key!r} to {shard.greatest_key!r}"
            damages.append(Damage(shard=shard.path, key=None, what=where))
        else:
            if rows_here != shard.num_rows:
                what = f"the log promises {shard.num_rows} rows, the shard holds {rows_here}"
                damages.append(Damage(shard=shard.path, key=None, what=what))
        num_rows += rows_here
    return VerifyReport(num_shards=len(shards), num_rows=num_rows, num_decoded=num_decoded, damages=tuple(damages))


def _faults(row: EncodedPhoto, seen: set[str]) -> list[str]:
    faults = []
    if row.key in seen:
        faults.append("the key appears twice")
    seen.add(row.key)
    if (row.image is None) != (row.outcome is Outcome.FAILED):
        faults.append(f"outcome {row.outcome} does not agree with {'no' if row.image is None else 'an'} image")
    kept = row.image if row.outcome is Outcome.KEPT and row.source_sha256 else None
    if kept is not None and hashlib.sha256(kept).hexdigest() != row.source_sha256:
        faults.append("the kept file is not the one that was read (SHA-256)")
    if row.outcome is Outcome.FAILED and not row.reason:
        faults.append("failed without a reason")
    return faults


def _decode_faults(row: EncodedPhoto, decode: Callable[[EncodedPhoto], None]) -> list[str]:
    try:
        decode(row)
    except PhotoarkError as error:
        return [error.message]
    return []
