"""An archive against its source: what it lacks, what changed since, what the source no longer has; and of two versions of
a photo, which one stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pipeline.records import EncodedPhoto, Outcome, Photo, Skipped

SOURCE_COLUMNS = (
    "key",
    "codec",
    "model",
    "recipe",
    "outcome",
    "reason",
    "same_as",
    "format",
    "source_uri",
    "source_bytes",
    "source_sha256",
    "source_etag",
    "modified_at",
)
"""What this needs to know of a row."""


class SourceVersion(NamedTuple):
    """Of which version of its source a row tells."""

    size_bytes: int
    sha256: str | None
    etag: str | None
    modified_at: datetime | None


def version_of(row: EncodedPhoto) -> SourceVersion:
    """The version that `row` was made of."""
    return SourceVersion(row.source_bytes, row.source_sha256, row.source_etag, row.modified_at)


def reason_of(row: EncodedPhoto) -> str:
    """Why nothing is stored of a photo whose row failed."""
    return row.reason or "unknown"


def difference(row: EncodedPhoto, photo: Photo) -> str | None:
    """What tells, without reading it, that `photo` is not the version that `row` was made of; None if nothing does.

    Tags decide where both have one from the same kind of store; else size and time of change.
    """
    if row.source_bytes != photo.size_bytes:
        return f"{row.source_bytes} bytes then, {photo.size_bytes} now"
    if row.source_etag and photo.etag and _scheme(row.source_uri) == _scheme(photo.uri):
        return None if row.source_etag == photo.etag else f"tag {row.source_etag} then, {photo.etag} now"
    then, now = row.modified_at, photo.modified_at
    if then is not None and now is not None and not is_same_time(then, now, exact=not _scheme(photo.uri)):
        return f"changed {then:%Y-%m-%d %H:%M:%S} then, {now:%Y-%m-%d %H:%M:%S} now (UTC)"
    return None


def is_same_time(one: datetime, other: datetime, *, exact: bool) -> bool:
    """Whether two times of change may be one.

    Args:
        exact: False for stores that may tell whole seconds with a file, and more in a listing.
    """
    if exact or (one.microsecond and other.microsecond):
        return one == other
    return one.replace(microsecond=0) == other.replace(microsecond=0)


def takes_place(new: EncodedPhoto, there: EncodedPhoto, seen: SourceVersion | None) -> bool:
    """Whether `new` takes the place of the row of its key that is `there`.

    It does where that is still the row that had been `seen` when the work on `new` began. Where another writer was
    faster, the version that changed last stays; of equal ones, and where no time tells, the one that is there.
    A failure never takes the place of a photo.
    """
    if new.outcome is Outcome.FAILED and there.outcome is not Outcome.FAILED:
        return False
    if version_of(there) == seen:
        return True
    if new.same_as == new.key:  # it hands on attributes of a version that is there no more
        return False
    if new.source_sha256 is not None and new.source_sha256 == there.source_sha256:
        return there.outcome is Outcome.FAILED and new.outcome is not Outcome.FAILED
    return new.modified_at is not None and there.modified_at is not None and new.modified_at > there.modified_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A photo that is not the one that was encoded."""

    key: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a source and its archive differ; none of it is damage."""

    num_same: int
    missing: tuple[str, ...]
    """In the source, and not (or not readable) in the archive."""
    not_stored: dict[str, str]
    """Key -> reason, of files of the source whose rows failed: nothing of them is stored."""
    changed: tuple[Change, ...]
    extra: tuple[str, ...]
    """Stored in the archive, gone from the source."""
    gone_failures: dict[str, str]
    """Key -> reason, of rows that are failures and whose files are gone from the source: there is nothing left to store."""
    codecs: dict[str, int]
    """Codec -> files of the source that its streams stand for; files that are stored as their bytes have none."""
    skipped: tuple[Skipped, ...] = ()
    """What the listing of the source left out, by reason."""

    @property
    def is_complete(self) -> bool:
        """Whether the archive holds all of the source as it is; what is extra does no harm."""
        is_all_listed = all(skipped.reason.is_harmless for skipped in self.skipped)
        return is_all_listed and not (self.missing or self.not_stored or self.changed)


class Comparer:
    """Takes the rows of an archive one by one, so that reading them once serves this too."""

    def __init__(
        self,
        photos: Iterable[Photo],
        digest: Callable[[Photo], str] | None = None,
        *,
        is_gone: Callable[[str], bool] = lambda _: True,
        skipped: tuple[Skipped, ...] = (),
    ) -> None:
        """Take the source's photos.

        Args:
            digest: SHA-256 (hex digits) of a photo's file, which then decides; without it, `difference` does.
            is_gone: whether the source lacks a file of this key, which is not in `photos` and may have been left out of them.
            skipped: what the listing of the source left out.
        """
        self._skipped, self._is_gone = skipped, is_gone
        self._left = {photo.key: photo for photo in photos}
        self._digest = digest
        self._num_same = 0
        self._not_stored: dict[str, str] = {}
        self._gone_failures: dict[str, str] = {}
        self._codecs: Counter[str] = Counter()
        self._changed: list[Change] = []
        self._extra: list[str] = []

    def see(self, row: EncodedPhoto) -> None:
        """Hold one row against its photo.

        Raises:
            StorageError: `digest` cannot read the photo.
        """
        photo = self._left.pop(row.key, None)
        if photo is None:
            if self._is_gone(row.key) and row.outcome is Outcome.FAILED:
                self._gone_failures[row.key] = reason_of(row)
            elif self._is_gone(row.key):
                self._extra.append(row.key)
        elif row.outcome is Outcome.FAILED:
            self._not_stored[row.key] = reason_of(row)
        elif what := self._difference(row, photo):
            self._changed.append(Change(key=row.key, what=what))
        else:
            self._num_same += 1
            if row.outcome is Outcome.ENCODED and row.codec:
                self._codecs[row.codec] += 1

    def result(self) -> Comparison:
        """What came out, keys sorted; photos that no row was seen for are missing."""
        return Comparison(
            num_same=self._num_same,
            missing=tuple(sorted(self._left)),
            not_stored=dict(sorted(self._not_stored.items())),
            changed=tuple(sorted(self._changed, key=lambda change: change.key)),
            extra=tuple(sorted(self._extra)),
            gone_failures=dict(sorted(self._gone_failures.items())),
            codecs=dict(self._codecs),
            skipped=self._skipped,
        )

    def _difference(self, row: EncodedPhoto, photo: Photo) -> str | None:
        if self._digest is None or row.source_sha256 is None or row.source_bytes != photo.size_bytes:
            return difference(row, photo)
        return None if self._digest(photo) == row.source_sha256 else "other bytes (SHA-256)"


def _scheme(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else ""
