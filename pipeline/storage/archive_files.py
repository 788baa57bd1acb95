"""The files that an archive consists of, so that others that lie beside them can be told apart."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress

from pipeline.errors import StorageError
from pipeline.storage.base import Storage

APP_ID = "photoark-encode"
"""In each of our commits. All writers use one id: that is what makes two commits at once conflict."""
DESCRIPTION = "Photos as bitstreams; made by photoark"
"""Of the table, in each version of its metadata."""
LOG_FOLDER = "_delta_log/"
SHARD_PREFIX = "photos-"
SHARD_NAME = re.compile(SHARD_PREFIX + r"([0-9a-f]{64}|[0-9a-f]{32})\.parquet")
"""What we call our files: 64 digits are the SHA-256 of the file, 32 (of earlier versions) mean nothing."""
PART_NAME = re.compile(r"\.photos-[0-9a-f]+\.parquet\.[0-9a-f]+\.part")
"""A shard that a process died over before all of it was written."""
_TAIL_BYTES = 8
_MAX_SCHEMA_BYTES = 1 << 16
"""A footer begins with the schema; ours is a few kilobytes."""
_COLUMNS = (b"key", b"image", b"outcome", b"source_uri")
"""Some of the columns that shards of every version have."""


def is_archive_file(path: str) -> bool:
    """Whether a file belongs to an archive; `path` is relative to the archive."""
    return path.startswith(LOG_FOLDER) or SHARD_NAME.fullmatch(path) is not None or PART_NAME.fullmatch(path) is not None


def is_our_log(storage: Storage, commits: tuple[str, ...]) -> bool:
    """Whether one of the commits of a Delta table's log, which are paths of JSON files, was written by photoark."""
    for path in commits:
        with suppress(StorageError):
            text = storage.read(path)
            if f'"{APP_ID}"'.encode() in text or DESCRIPTION.encode() in text:
                return True
    return False


def is_our_shard(storage: Storage, path: str) -> bool:
    """Whether a file is a Parquet file with the columns of an archive, as far as its last bytes tell."""
    with suppress(StorageError), storage.open(path) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, size_bytes - _TAIL_BYTES))
        length, magic = struct.unpack("<I4s", file.read(_TAIL_BYTES).rjust(_TAIL_BYTES, b"\0"))
        if magic == b"PAR1" and length <= size_bytes - _TAIL_BYTES:
            file.seek(size_bytes - _TAIL_BYTES - length)
            footer = file.read(min(length, _MAX_SCHEMA_BYTES))
            return all(column in footer for column in _COLUMNS)
    return False


class ArchiveFinder:
    """Finds the folders that are archives among all paths of a source; folders are named with a slash at their end, or ""."""

    def __init__(self) -> None:
        self._commits: dict[str, tuple[str, ...]] = {}
        """Folder that holds a Delta log -> the log's first and last commit."""
        self._shards: dict[str, list[str]] = {}
        """Folder -> files in it that are named as our shards are."""

    def see(self, path: str) -> None:
        folder, name = split_path(path)
        if folder == LOG_FOLDER or folder.endswith(f"/{LOG_FOLDER}"):
            table = folder.removesuffix(LOG_FOLDER)
            ends = self._commits.setdefault(table, ())
            if name.endswith(".json"):
                ends = (*ends, path)
                self._commits[table] = (min(ends), max(ends))
        elif SHARD_NAME.fullmatch(name):
            self._shards.setdefault(folder, []).append(path)

    def archives(self, storage: Storage) -> set[str]:
        """Folders with a log of ours, or with a log beside a shard of ours: the log may be too damaged to say whose it is."""
        return {
            table for table, ends in self._commits.items() if is_our_log(storage, ends) or self._holds_shard(storage, table)
        }

    def without_log(self, storage: Storage) -> set[str]:
        """Folders with a shard of ours and no log."""
        return {folder for folder in self._shards.keys() - self._commits.keys() if self._holds_shard(storage, folder)}

    def _holds_shard(self, storage: Storage, folder: str) -> bool:
        return any(is_our_shard(storage, path) for path in self._shards.get(folder, ()))


def split_path(key: str) -> tuple[str, str]:
    """Folder with a slash at its end, and name."""
    folder, slash, name = key.rpartition("/")
    return folder + slash, name


def archive_among(storage: Storage, paths: Iterable[str]) -> str | None:
    """Return the URL of an archive to which some of the files at `paths` below `storage` belong; None if there is none."""
    finder = ArchiveFinder()
    for path in paths:
        finder.see(path)
    found = min(finder.archives(storage) | finder.without_log(storage), default=None)
    return None if found is None else storage.uri(found.rstrip("/"))


def archive_around(storage: Storage) -> str | None:
    """Return the URL of the archive that is, or holds, the folder `storage`; None if there is none."""
    for folder in _upwards(storage):
        with suppress(StorageError):  # a folder that may not be listed
            if folder.exists(LOG_FOLDER.rstrip("/")):
                log = Storage(folder.url + ("" if folder.url.endswith("/") else "/") + LOG_FOLDER)
                if archive_among(folder, (LOG_FOLDER + file.path for file in log.list())) is not None:
                    return folder.url
    return None


def _upwards(storage: Storage) -> Iterator[Storage]:
    """A folder and those that hold it, whether they exist or not."""
    if not storage.is_local:
        scheme, _, path = storage.url.partition("://")
        parts = path.split("/")
        yield from (Storage(f"{scheme}://{'/'.join(parts[:i])}") for i in range(len(parts), 0, -1))
        return
    folder = os.path.realpath(storage.root)
    while True:
        yield Storage(folder)
        if folder == os.path.dirname(folder):
            return
        folder = os.path.dirname(folder)
