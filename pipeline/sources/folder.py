"""Photos as files below a folder or a prefix."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pipeline.errors import SettingError, StorageError
from pipeline.records import Photo, Skipped, SkipReason
from pipeline.sources.companions import with_companions
from pipeline.sources.file_kinds import NUM_SIGNATURE_BYTES, claims_to_be_photo
from pipeline.sources.selection import DEFAULT_SELECTION, Selection
from pipeline.storage.archive_files import LOG_FOLDER, ArchiveFinder, is_archive_file, split_path
from pipeline.storage.base import Storage

_NUM_READERS = 16
"""Threads that look at first bytes."""
_MAX_NAMES = 20
"""Of skipped entries that are named, for each reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds: the files found are `photos` and the entries of `skipped`."""

    photos: list[Photo]
    """Every file that is taken, sorted by key; those that are no photos too, unless they were left out."""
    skipped: tuple[Skipped, ...] = ()
    """By reason, in the order of `SkipReason`."""
    selection: Selection = DEFAULT_SELECTION
    no_photos: frozenset[str] = frozenset()
    """Keys of files that were left out because they are no photos."""
    unreadable_folders: frozenset[str] = frozenset()
    """Keys of folders that cannot be listed."""

    def lacks(self, key: str) -> bool:
        """Whether a file that is not in `photos` is gone: it was neither left out, nor may it be in an unreadable folder."""
        if key in self.no_photos or not self.selection.takes(key):
            return False
        parts = key.split("/")
        return not any("/".join(parts[:i]) in self.unreadable_folders for i in range(len(parts)))


def list_source(source: str, selection: Selection = DEFAULT_SELECTION) -> Listing:
    """List every file below `source` that `selection` takes; what is left out is counted by reason.

    Of an archive that lies in the source, or is the source, shards and log are left out; other files in its folder are taken.

    Raises:
        SettingError: there is no such folder.
        StorageError: it cannot be listed.
    """
    storage = Storage(source)
    if not storage.is_folder():
        what = "is not a folder" if storage.exists() else "does not exist"
        raise SettingError(f"{storage.url} {what}: name a folder of photos, or a bucket and prefix")
    skips, finder = _Skips(), ArchiveFinder()
    unreadable: set[str] = set()

    def on_skip(reason: SkipReason, path: str, detail: str) -> None:
        if reason is SkipReason.UNREADABLE_FOLDER:
            unreadable.add(path)
            # Whether a folder that nobody asked for can be read does not matter.
            reason = selection.folder_refusal(path) or reason
        skips.add(reason, f"{path or '.'}: {detail}" if detail else path)

    files = []
    for f in storage.list(on_skip, selection.folder_refusal):
        files.append(Photo(key=f.path, uri=f.uri, size_bytes=f.size_bytes, modified_at=f.modified_at, etag=f.etag))
        finder.see(f.path)
    files.sort(key=lambda file: file.key)
    archives = finder.archives(storage)
    photos = []
    for file in files:
        refusal = SkipReason.ARCHIVE if _is_in_archive(file.key, archives) else selection.refusal(file.key)
        if refusal:
            skips.add(refusal, file.key)
        else:
            photos.append(file)
    photos = with_companions(photos)
    no_photos = _no_photos(storage, photos) if selection.photos_only else frozenset()
    for key in sorted(no_photos):
        skips.add(SkipReason.NO_PHOTO, key)
    return Listing(
        photos=[photo for photo in photos if photo.key not in no_photos],
        skipped=skips.result(),
        selection=selection,
        no_photos=no_photos,
        unreadable_folders=frozenset(unreadable),
    )


def check_places(source: str, archive: str) -> None:
    """Refuse to make a new archive in a folder that holds the source: it would be among files that it does not stand for.

    An archive in the source, or in the same place, is fine, and so is one that is there already.

    Raises:
        SettingError: there is no archive yet, and the source lies in its folder.
    """
    inner, outer = Storage(source), Storage(archive)
    urls = [os.path.realpath(place.url) if place.is_local else place.url for place in (inner, outer)]
    if urls[0] != urls[1] and urls[0].startswith(urls[1].rstrip("/") + "/") and not outer.exists(LOG_FOLDER.rstrip("/")):
        raise SettingError(
            f"SRC {inner.url} lies in {outer.url}, where there is no archive yet: name a new folder for it, or encode all of "
            f"{outer.url}"
        )


def list_photos(source: str) -> list[Photo]:
    """The files that `list_source` takes.

    Raises:
        As `list_source`.
    """
    return list_source(source).photos


def _no_photos(storage: Storage, files: Sequence[Photo]) -> frozenset[str]:
    """Keys of those of `files` that do not claim to be photos; where the name does not, the first bytes are read."""
    with ThreadPoolExecutor(_NUM_READERS) as threads:
        claims = threads.map(partial(_claims_to_be_photo, storage), files)
        return frozenset(file.key for file, is_photo in zip(files, claims, strict=True) if not is_photo)


def _claims_to_be_photo(storage: Storage, file: Photo) -> bool:
    if claims_to_be_photo(file.key):
        return True
    try:
        with storage.open(file.key) as handle:
            return claims_to_be_photo(file.key, bytes(handle.read(NUM_SIGNATURE_BYTES)))
    except StorageError:
        return True  # what cannot be read becomes a row that says so


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


def _is_in_archive(key: str, archives: Collection[str]) -> bool:
    """Whether a file is a shard of, or in the log of, one of `archives`."""
    if not archives:
        return False
    folder, _ = split_path(key)
    table = folder[: f"/{folder}".find(f"/{LOG_FOLDER}")] if f"/{LOG_FOLDER}" in f"/{folder}" else folder
    return table in archives and is_archive_file(key.removeprefix(table))
