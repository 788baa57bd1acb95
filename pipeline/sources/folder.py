"""Photos as files below a folder or a prefix."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.archive_files import LOG_FOLDER, SHARD_NAME, is_archive_file, is_our_log
from pipeline.errors import SettingError
from pipeline.records import Photo, Skipped, SkipReason
from pipeline.sources.companions import with_companions
from pipeline.sources.selection import DEFAULT_SELECTION, Selection
from pipeline.storage import Storage

_MAX_NAMES = 20
"""Of skipped entries that are named, for each reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds: files found = `photos` + entries of `skipped`."""

    photos: list[Photo]
    """Every file that is taken, sorted by key; those that are no photos too, unless they were left out."""
    skipped: tuple[Skipped, ...] = ()
    """By reason, in the order of `SkipReason`."""

    @property
    def is_complete(self) -> bool:
        """Whether no folder was unreadable, which might have held photos."""
        return all(skipped.reason.is_harmless for skipped in self.skipped)


def list_source(source: str, selection: Selection = DEFAULT_SELECTION) -> Listing:
    """List every file below `source` that `selection` takes; what is left out is counted by reason.

    Of an archive that lies in the source, or is the source, shards and log are left out; other files in its folder are taken.

    Raises:
        SettingError: there is no such folder.
        StorageError: it cannot be listed.
    """
    storage = Storage(source)
    if not storage.exists():
        raise SettingError(f"{storage.url} does not exist: name a folder of photos, or a bucket and prefix")
    skips = _Skips()

    def on_skip(reason: SkipReason, text: str) -> None:
        # What nobody asked for may be unreadable.
        refusal = selection.folder_refusal(text.partition(": ")[0]) if reason is SkipReason.UNREADABLE_FOLDER else None
        skips.add(refusal or reason, text)

    photos: list[Photo] = []
    logs = _Logs()
    for f in storage.list(on_skip, selection.folder_refusal):
        photos.append(Photo(key=f.path, uri=f.uri, size_bytes=f.size_bytes, modified_at=f.modified_at, etag=f.etag))
        logs.see(f.path)
    photos.sort(key=lambda photo: photo.key)
    archives = logs.archives(storage)
    taken = []
    for photo in photos:
        refusal = SkipReason.ARCHIVE if _is_in_archive(photo.key, archives) else selection.refusal(photo.key)
        if refusal:
            skips.add(refusal, photo.key)
        else:
            taken.append(photo)
    return Listing(photos=with_companions(taken), skipped=skips.result())


def list_photos(source: str) -> list[Photo]:
    """The files that `list_source` takes.

    Raises:
        As `list_source`.
    """
    return list_source(source).photos


class _Skips:
    """Counts entries by reason and keeps the first names."""

    def __init__(self) -> None:
        self._counts: dict[SkipReason, int] = {}
        self._first: dict[SkipReason, list[str]] = {}

    def add(self, reason: SkipReason, text: str) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1
        first = self._first.setdefault(reason, [])
        if len(first) < _MAX_NAMES:
            first.append(text)

    def result(self) -> tuple[Skipped, ...]:
        return tuple(
            Skipped(reason=reason, num_entries=self._counts[reason], first=tuple(self._first[reason]))
            for reason in SkipReason
            if reason in self._counts
        )


class _Logs:
    """Finds the folders that are archives among all paths of a source; folders are named with a slash at their end, or ""."""

    def __init__(self) -> None:
        self._commits: dict[str, tuple[str, ...]] = {}
        """Folder that holds a Delta log -> the log's first and last commit."""
        self._with_shards: set[str] = set()

    def see(self, path: str) -> None:
        folder, name = _split(path)
        if folder == LOG_FOLDER or folder.endswith(f"/{LOG_FOLDER}"):
            table = folder.removesuffix(LOG_FOLDER)
            ends = self._commits.setdefault(table, ())
            if name.endswith(".json"):
                ends = (*ends, path)
                self._commits[table] = (min(ends), max(ends))
        elif SHARD_NAME.fullmatch(name):
            self._with_shards.add(folder)

    def archives(self, storage: Storage) -> set[str]:
        # A log that is too damaged to say whose it is lies beside shards whose names do.
        return {table for table, ends in self._commits.items() if table in self._with_shards or is_our_log(storage, ends)}


def _split(key: str) -> tuple[str, str]:
    """Folder with a slash at its end, and name."""
    folder, slash, name = key.rpartition("/")
    return folder + slash, name


def _is_in_archive(key: str, archives: Collection[str]) -> bool:
    """Whether a file is a shard of, or in the log of, one of `archives`."""
    if not archives:
        return False
    folder, _ = _split(key)
    table = folder[: f"/{folder}".find(f"/{LOG_FOLDER}")] if f"/{LOG_FOLDER}" in f"/{folder}" else folder
    return table in archives and is_archive_file(key.removeprefix(table))
