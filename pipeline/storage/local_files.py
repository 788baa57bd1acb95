"""Files on this machine: a listing in which linked folders are followed once and no entry ends the listing of the others, and
writes of which a reader sees all or nothing."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from pipeline.errors import PathConflictError, StorageError
from pipeline.records import SkipReason
from pipeline.storage.names import clipped, key_of_name

OnSkip = Callable[[SkipReason, str, str], None]
"""Takes the reason why an entry is left out, its path relative to the root, and details, which may be empty."""
FolderRefusal = Callable[[str], SkipReason | None]
"""Why a link to a folder, by its path relative to the root, is not followed; None if it may be."""


def walk(root: str, on_skip: OnSkip, folder_refusal: FolderRefusal) -> Iterator[tuple[str, os.stat_result | None]]:
    """Path relative to `root`, as the system spells it, and status of every file, links to files included.

    The status is None where it cannot be had, as of a link to nothing: reading the file then says why. A folder that can be
    reached in several ways is listed once, where it really is if that is below `root`; of links to it, the one nearest to
    `root` wins, then the first by name.

    Raises:
        OSError: `root` itself cannot be listed.
    """
    os.scandir(root).close()
    return _Walk(root, on_skip, folder_refusal).files()


def entries(root: str) -> Iterator[tuple[str, os.stat_result | None, bool]]:
    """Path relative to `root` of everything below it that is no folder, its status, and whether it is a link to a folder.

    Links are not followed.

    A folder that cannot be listed is passed over.

    Raises:
        OSError: `root` itself cannot be listed.
    """
    os.scandir(root).close()
    folders = [""]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(OSError), os.scandir(os.path.join(root, folder)) as found:
            for entry in found:
                path = os.path.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:  # it is gone by now
                    status = None
                yield path, status, entry.is_symlink() and os.path.isdir(entry.path)


def write_whole(root: str, path: str, data: bytes, modified_at: datetime | None, *, replace: bool) -> None:
    """Write a file, so that a reader sees all of it or nothing; folders are made.

    Args:
        root: a folder, which may be a link or lie behind one.
        path: relative to `root`.
        replace: False leaves a file that is there as it is.

    Raises:
        FileExistsError: something is there, and is not to be replaced.
        PathConflictError: a folder is where the file would be, or a file where its folder would be.
        StorageError: a folder between `root` and the file is a link.
        OSError: it cannot be written.
    """
    if link := _link_above(root, path):
        name = key_of_name(os.fsencode(link))
        raise StorageError(f"{name} is a link, and files are not written through links")
    path = os.path.join(root, path)
    folder, name = os.path.split(path)
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise PathConflictError(f"{path} cannot be written: one of its folders is a file") from error
    # Two threads may write one file: a shard's name follows from what is in it.
    part = os.path.join(folder, f".{clipped(name, _MAX_PART_BYTES)}.{uuid.uuid4().hex[:12]}.part")
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if modified_at is not None:
            # Whole microseconds: of seconds as a float, the file would keep the one before, for half of all times.
            os.utime(part, ns=((modified_at - _EPOCH) // timedelta(microseconds=1) * 1000,) * 2)
        if replace:
            os.replace(part, path)
        else:
            _move_new(part, path)
    except (FileExistsError, IsADirectoryError) as error:
        if os.path.isdir(path):
            raise PathConflictError(f"{path} cannot be written: it is a folder") from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _link_above(root: str, path: str) -> str | None:
    """Return the first folder between `root` and the relative `path` that is a link."""
    folders = (os.path.join(root, path[: match.start()]) for match in re.finditer("/", path))
    return next(filter(os.path.islink, folders), None)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_PART_BYTES = 200
"""Of a file's name in that of its unfinished part, so that the whole stays below 255."""


def _move_new(part: str, path: str) -> None:
    """Give a file its name, unless something has it: unlike a move, a link replaces nothing."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links. An empty file holds the name until the whole one has it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(part, path)


class _Walk:
    def __init__(self, root: str, on_skip: OnSkip, folder_refusal: FolderRefusal) -> None:
        self._root, self._on_skip, self._folder_refusal = root, on_skip, folder_refusal
        self._real_root = os.path.realpath(root)
        self._walked = {self._real_root: ""}
        """Real path -> path, of the root and of all linked folders that were followed; what lies below them is listed."""
        self._links: list[str] = []
        """To folders, met and not yet followed."""

    def files(self) -> Iterator[tuple[str, os.stat_result | None]]:
        yield from self._below("", self._real_root)
        while self._links:
            links, self._links = sorted(self._links, key=_nearest_first), []
            for link in links:
                target = os.path.realpath(os.path.join(self._root, link))
                if self._is_listed(target):
                    self._on_skip(SkipReason.LISTED_ALREADY, link, f"a link to {target}")
                else:
                    self._walked[target] = link
                    yield from self._below(link, target)

    def _below(self, start: str, real_start: str) -> Iterator[tuple[str, os.stat_result | None]]:
        folders = [(start, real_start)]
        while folders:
            folder, real_folder = folders.pop()
            if folder != start and real_folder in self._walked:
                self._on_skip(SkipReason.LISTED_ALREADY, folder, "")
                continue
            try:
                with os.scandir(os.path.join(self._root, folder)) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                self._on_skip(SkipReason.UNREADABLE_FOLDER, folder, error.strerror or str(error))
                continue
            inside = []
            for entry in entries:
                path = os.path.join(folder, entry.name)
                try:
                    status = entry.stat()
                except OSError as error:
                    if _is_folder(entry):
                        self._on_skip(SkipReason.UNREADABLE_FOLDER, path, error.strerror or str(error))
                    else:
                        yield path, None
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield path, status
                elif not stat.S_ISDIR(status.st_mode):
                    self._on_skip(SkipReason.SPECIAL_FILE, path, "")
                elif not entry.is_symlink():
                    inside.append((path, os.path.join(real_folder, entry.name)))
                elif refusal := self._folder_refusal(path):
                    self._on_skip(refusal, path, "a link to a folder")
                else:
                    self._links.append(path)
            folders += reversed(inside)

    def _is_listed(self, target: str) -> bool:
        """Whether the files of the folder `target` are listed and taken, or it holds the root: following it would never end."""
        inside = target.rstrip("/") + "/"
        if self._real_root.startswith(inside):
            return True
        for folder in _upwards(target):
            if folder in self._walked:
                path = os.path.normpath(os.path.join(self._walked[folder], os.path.relpath(target, folder)))
                if path == "." or self._folder_refusal(path) is None:
                    return True
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _nearest_first(path: str) -> tuple[int, str]:
    return path.count("/"), path


def _upwards(path: str) -> Iterator[str]:
    """A folder and those that hold it."""
    while True:
        yield path
        parent = os.path.dirname(path)
        if parent == path:
            return
        path = parent
