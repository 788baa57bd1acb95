"""An archive against its source: what it lacks, what changed since, what the source no longer has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.records import EncodedPhoto, Photo


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
    changed: tuple[Change, ...]
    extra: tuple[str, ...]
    """In the archive, gone from the source."""

    @property
    def is_complete(self) -> bool:
        """Whether the archive holds all of the source as it is; what is extra does no harm."""
        return not (self.missing or self.changed)


class Comparer:
    """Takes the rows of an archive one by one, so that reading them once serves this too."""

    def __init__(self, photos: Iterable[Photo], digest: Callable[[Photo], str] | None = None) -> None:
        """Take the source's photos.

        Args:
            digest: SHA-256 (hex digits) of a photo's file, which then decides; without it, size and time of change do.
        """
        self._left = {photo.key: photo for photo in photos}
        self._digest = digest
        self._num_same = 0
        self._changed: list[Change] = []
        self._extra: list[str] = []

    def see(self, row: EncodedPhoto) -> None:
        """Hold one row against its photo.

        Raises:
            StorageError: `digest` cannot read the photo.
        """
        photo = self._left.pop(row.key, None)
        if photo is None:
            self._extra.append(row.key)
        elif what := self._difference(row, photo):
            self._changed.append(Change(key=row.key, what=what))
        else:
            self._num_same += 1

    def result(self) -> Comparison:
        """What came out, keys sorted; photos that no row was seen for are missing."""
        return Comparison(
            num_same=self._num_same,
            missing=tuple(sorted(self._left)),
            changed=tuple(sorted(self._changed, key=lambda change: change.key)),
            extra=tuple(sorted(self._extra)),
        )

    def _difference(self, row: EncodedPhoto, photo: Photo) -> str | None:
        if row.source_bytes != photo.size_bytes:
            return f"{row.source_bytes} bytes then, {photo.size_bytes} now"
        if self._digest is not None and row.source_sha256 is not None:
            return None if self._digest(photo) == row.source_sha256 else "other bytes (SHA-256)"
        if row.modified_at is not None and photo.modified_at is not None and row.modified_at != photo.modified_at:
            return f"changed {row.modified_at:%Y-%m-%d %H:%M:%S} then, {photo.modified_at:%Y-%m-%d %H:%M:%S} now (UTC)"
        return None
