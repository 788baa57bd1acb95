"""Prove that an archive is whole: every shard there, every byte as it was written, every key once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pipeline.archive.care.shard_check import Damage, DamageKind, check_shard
from pipeline.archive.reader import Archive
from pipeline.archive.references import holds
from pipeline.archive.shard_reader import read_shard
from pipeline.archive.versions import reason_of
from pipeline.errors import ArchiveDamagedError, ArchiveError, PhotoarkError
from pipeline.records import BLOB_COLUMNS, EncodedPhoto, Outcome
from pipeline.storage.archive_files import LOG_FOLDER, SHARD_NAME
from pipeline.storage.base import Storage

_ACTIONS = frozenset(("add", "commitInfo", "domainMetadata", "metaData", "protocol", "remove", "txn"))
RowCheck = Callable[[EncodedPhoto], object]
"""Looks at one row; raises a `PhotoarkError` that says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A file below the archive that the log does not name: replaced, or written by a job that died. No damage."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was looked at and what was found."""

    num_shards: int
    num_rows: int
    """That could be read, the doubtful ones of damaged shards included."""
    num_decoded: int
    damages: tuple[Damage, ...]
    orphans: tuple[Orphan, ...] = ()
    num_streams: int = 0
    """Bitstreams that could be decoded, each counted once."""
    not_stored: dict[str, str] = field(default_factory=dict)
    """Key -> reason, of rows that failed: nothing of these files is stored. No damage."""

    @property
    def is_clean(self) -> bool:
        return not self.damages


def verify(
    archive: Archive,
    decode: RowCheck | None = None,
    *,
    check: RowCheck | None = None,
    share: float = 1.0,
    on_row: Callable[[EncodedPhoto], None] | None = None,
) -> VerifyReport:
    """Read every byte of `archive`, one shard in memory at a time.

    Args:
        decode: called with rows that have a bitstream and no other fault.
        check: called with every row that has a bitstream, to look at its container.
        share: of the bitstreams that are decoded, 0 to 1; chosen anew each time.
        on_row: called with every row that can be read, once a key.

    Raises:
        StorageError: the archive cannot be listed.
    """
    # Files first: what is committed in between is then in the log, and no orphan.
    files = list(archive.storage.list())
    archive.log.refresh()
    shards = sorted(archive.shards(), key=lambda shard: (shard.least_key, shard.path))
    damages: list[Damage] = []
    shard_of: dict[str, str] = {}
    digests: dict[str, str] = {}
    references: list[tuple[str, str, str, str]] = []
    not_stored: dict[str, str] = {}
    num_rows = num_streams = num_decoded = 0
    for shard in shards:
        found = check_shard(archive.storage, shard)
        damages += found.damages
        rows = found.rows + found.doubtful_rows
        num_rows += len(rows)
        for row in rows:
            if row.key in shard_of:
                what = f"the key appears twice, also in {shard_of[row.key]}"
                damages.append(Damage(kind=DamageKind.DUPLICATE, shard=shard.path, keys=(row.key,), what=what))
            elif on_row is not None:
                on_row(row)
            shard_of.setdefault(row.key, shard.path)
            if row.outcome is Outcome.FAILED:
                not_stored[row.key] = reason_of(row)
            faults = [*_faults(row)]
            has_stream = row.outcome is Outcome.ENCODED and row.same_as is None
            num_streams += has_stream
            if has_stream and check is not None and not faults:
                faults += _faults_by(check, row)
            if has_stream and decode is not None and not faults and random.random() < share:
                num_decoded += 1
                faults += _faults_by(decode, row)
            if row.same_as is not None:
                references.append((shard.path, row.key, row.same_as, row.source_sha256 or ""))
            elif row.source_sha256 and holds(row, row.source_sha256) and not faults:
                digests[row.key] = row.source_sha256
            damages += [Damage(kind=DamageKind.ROW, shard=shard.path, keys=(row.key,), what=fault) for fault in faults]
    damages += [
        Damage(kind=DamageKind.ROW, shard=path, keys=(key,), what=f"its stream is not with {holder!r}, where it should be")
        for path, key, holder, sha256 in references
        if digests.get(holder) != sha256
    ]
    named = {shard.path for shard in shards}
    orphans = [
        Orphan(path=file.path, size_bytes=file.size_bytes)
        for file in files
        if file.path not in named and not file.path.startswith(LOG_FOLDER)
    ]
    if fault := archive.log.fault():
        # What a lost line of the log hurts are the photos of shards that lie there and that it no longer names.
        hidden = _keys_in(archive.storage, [orphan.path for orphan in orphans]) - shard_of.keys()
        damages.append(Damage(kind=DamageKind.LOG, shard=LOG_FOLDER, keys=tuple(sorted(hidden)), what=fault))
    return VerifyReport(
        num_shards=len(shards),
        num_rows=num_rows,
        num_decoded=num_decoded,
        num_streams=num_streams,
        damages=tuple(damages),
        orphans=tuple(sorted(orphans, key=lambda orphan: orphan.path)),
        not_stored=dict(sorted(not_stored.items())),
    )


def verify_unopened(storage: Storage, error: ArchiveError) -> VerifyReport:
    """What to say of an archive whose log cannot be opened: no photo of it can be found, and which file is to blame.

    Raises:
        StorageError: the store does not hand out its files.
        ArchiveError: `error` itself, if there is nothing to read, or it can be opened by now.
    """
    paths = sorted(file.path for file in storage.list())
    logs = [path for path in paths if path.startswith(LOG_FOLDER)]
    to_blame = [path for path in logs if path.endswith(".json") and not _is_log(storage.read(path))]
    keys = _keys_in(storage, paths)
    if not (logs or keys) or _opens(storage):
        raise error
    blamed = ", ".join(to_blame) or "the files of the log"
    what = f"{error.message}; bring {blamed} back from a copy, or let photoark salvage make a new archive of the shards"
    damage = Damage(kind=DamageKind.LOG, shard=LOG_FOLDER, keys=tuple(sorted(keys)), what=what)
    return VerifyReport(num_shards=0, num_rows=0, num_decoded=0, damages=(damage,))


def _opens(storage: Storage) -> bool:
    try:
        Archive.open(storage.url)
    except ArchiveError:
        return False
    return True


def _is_log(data: bytes) -> bool:
    try:
        actions = [json.loads(line) for line in data.decode().splitlines() if line]
    except ValueError:
        return False
    return bool(actions) and all(isinstance(action, dict) and _ACTIONS.issuperset(action) for action in actions)


def _keys_in(storage: Storage, paths: list[str]) -> set[str]:
    """Keys of all shards among `paths` that are sound."""
    keys: set[str] = set()
    for path in paths:
        if SHARD_NAME.fullmatch(path):
            with contextlib.suppress(ArchiveDamagedError):
                keys.update(row.key for row in read_shard(storage, path))
    return keys


def _faults(row: EncodedPhoto) -> Iterator[str]:
    if row.same_as is not None:
        if row.outcome is Outcome.FAILED or any(getattr(row, name) is not None for name in BLOB_COLUMNS):
            yield f"it is the same as {row.same_as}, and yet a failure, or with a stream or metadata of its own"
        return
    if (row.image is None) != (row.outcome is Outcome.FAILED):
        yield f"outcome {row.outcome} does not agree with {'no' if row.image is None else 'an'} image"
    kept = row.image if row.outcome is Outcome.KEPT and row.source_sha256 else None
    if kept is not None and hashlib.sha256(kept).hexdigest() != row.source_sha256:
        yield "the kept file is not the one that was read (SHA-256)"
    if row.original is not None and hashlib.sha256(row.original).hexdigest() != row.source_sha256:
        yield "the original beside the bitstream is not the file that was read (SHA-256)"
    if row.outcome is Outcome.FAILED and not row.reason:
        yield "failed without a reason"


def _faults_by(check: RowCheck, row: EncodedPhoto) -> list[str]:
    try:
        check(row)
    except PhotoarkError as error:
        return [error.message]
    return []
