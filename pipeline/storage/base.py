"""The one place that opens URLs: local paths, s3:// through boto3, anything else through fsspec.

Paths below a root are text with `/` between parts; of a local path, `names.key_of_name` says how. A key of an object store may
hold any text, also empty parts, `.` and `..`: an object is asked for by the key that the listing gave.

delta-rs gets the credentials that boto3's chain finds (environment, profile, role), so that both speak as the same user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyarrow import fs

from pipeline.errors import AlreadyExistsError, SettingError, StorageError
from pipeline.records import SkipReason
from pipeline.storage import s3
from pipeline.storage.local_files import FolderRefusal, OnSkip, entries, walk, write_whole
from pipeline.storage.locations import normalised, scheme_of, url_for_delta
from pipeline.storage.names import key_of_name, name_of_key


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file under a root."""

    path: str
    """Relative to the root."""
    uri: str
    size_bytes: int
    modified_at: datetime | None
    etag: str | None = None
    """The object store's version tag, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBytes:
    """A whole file, all of it of one version."""

    data: bytes
    modified_at: datetime | None
    etag: str | None
    """The object store's version tag, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Something below a root that is no folder."""

    modified_at: datetime | None
    is_linked_folder: bool = False


class Storage:
    """A root URL and what lies under it. Cheap to make and to send to another process: it opens on first use."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        """Name a root: a local path, a `file:` URL, `s3://bucket/prefix`, or a URL of a scheme that fsspec knows.

        Raises:
            SettingError: `locations.normalised` says why.
        """
        self.url = normalised(url)
        self.scheme = scheme_of(self.url)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def is_local(self) -> bool:
        return self.scheme == ""

    def uri(self, path: str) -> str:
        """Full URL of a relative path, as text; of a local root, its path."""
        if self.scheme == "s3":
            bucket, folder = self._bucket_and_folder()
            return f"s3://{bucket}/{folder}{path}" if path else self.url
        root = key_of_name(os.fsencode(self.url)) if self.is_local else self.url
        return f"{root.rstrip('/')}/{path}" if path else root

    def list(self, on_skip: OnSkip = lambda *_: None, folder_refusal: FolderRefusal = lambda _: None) -> Iterator[StoredFile]:
        """Every file under the root, recursively, in the order of the store; links to folders are followed once.

        Args:
            on_skip: called with each entry that is no file, and with each folder that cannot be listed.
            folder_refusal: says why a link to a folder is not to be followed.

        Raises:
            StorageError: the root does not exist or cannot be listed.
        """
        with self._failing("cannot be listed"):
            if self.is_local:
                yield from self._list_local(on_skip, folder_refusal)
                return
            if self.scheme == "s3":  # not pyarrow, which does not hand on the tags
                bucket, folder = self._bucket_and_folder()
                for key, size, changed, etag in s3.list_objects(bucket, folder):
                    path = key.removeprefix(folder)
                    if key.endswith("/") and not size:
                        on_skip(SkipReason.FOLDER_MARKER, path or key, "")
                        continue
                    # The key itself: `uri` of an empty path would be the folder's.
                    uri = f"s3://{bucket}/{key}"
                    yield StoredFile(path=path, uri=uri, size_bytes=size, modified_at=changed, etag=etag)
                return
            for info in self.filesystem.get_file_info(fs.FileSelector(self.root, recursive=True)):
                if info.type == fs.FileType.File:
                    # fsspec's memory file system puts a slash in front of what it was given without one.
                    path = info.path.lstrip("/").removeprefix(self.root.strip("/")).lstrip("/")
                    modified = info.mtime.replace(tzinfo=info.mtime.tzinfo or UTC) if info.mtime else None
                    yield StoredFile(path=path, uri=self.uri(path), size_bytes=info.size, modified_at=modified)

    def _list_local(self, on_skip: OnSkip, folder_refusal: FolderRefusal) -> Iterator[StoredFile]:
        # Not pyarrow: it stops at the first name that is not UTF-8, and passes over links that lead nowhere.
        if not os.path.isdir(self.root):
            raise StorageError(f"{self.url} is not a folder")

        def skip(reason: SkipReason, path: str, detail: str) -> None:
            on_skip(reason, key_of_name(os.fsencode(path)), key_of_name(os.fsencode(detail)))

        for found, status in walk(self.root, skip, lambda folder: folder_refusal(key_of_name(os.fsencode(folder)))):
            path = key_of_name(os.fsencode(found))
            size, modified = (0, None) if status is None else (status.st_size, _modified_at(status))
            yield StoredFile(path=path, uri=self.uri(path), size_bytes=size, modified_at=modified)

    def taken(self) -> dict[str, Taken]:
        """Path -> what is there, of everything below the root that is no folder; empty where there is no root.

        Unlike `list`, on this machine it includes links and special files, and follows no links.

        Raises:
            StorageError: the root cannot be listed.
        """
        if not self.exists():
            return {}
        if not self.is_local:
            return {file.path: Taken(modified_at=file.modified_at) for file in self.list()}
        with self._failing("cannot be listed"):
            return {
                key_of_name(os.fsencode(path)): Taken(modified_at=status and _modified_at(status), is_linked_folder=is_linked)
                for path, status, is_linked in entries(self.root)
            }

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or a folder."""
        with self._failing("cannot be looked at"):
            if self.scheme == "s3":
                bucket, folder = self._bucket_and_folder()
                return s3.exists(bucket, folder + path if path else folder.removesuffix("/"))
            if self.is_local:
                try:
                    os.stat(self._full(path))
                except (FileNotFoundError, NotADirectoryError):
                    return False
                return True
            return bool(self.filesystem.get_file_info(self._full(path)).type != fs.FileType.NotFound)

    def is_folder(self) -> bool:
        """Whether the root is a folder, a bucket, or the prefix of any object's key."""
        if self.scheme == "s3" and self._bucket_and_folder()[1]:
            with self._failing("cannot be looked at"):
                return s3.holds_any(*self._bucket_and_folder())
        return os.path.isdir(self.root) if self.is_local else self.exists()

    def has_bucket(self) -> bool:
        """Whether the bucket exists that the root is in; True where there are no buckets."""
        with self._failing("cannot be looked at"):
            return self.scheme != "s3" or s3.exists(self._bucket_and_folder()[0], "")

    def file_in_the_way(self) -> str | None:
        """Return the path of a local file where the root or a folder that leads to it would be; None if there is none."""
        path = self.root if self.is_local else ""
        while path and not os.path.lexists(path) and path != os.path.dirname(path):
            path = os.path.dirname(path)
        return key_of_name(os.fsencode(path)) if os.path.exists(path) and not os.path.isdir(path) else None

    def holds_any(self, prefix: str) -> bool:
        """Whether the name of anything directly below the root begins so; without listing what lies deeper."""
        with self._failing("cannot be looked at"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.scheme == "s3":
                return s3.holds_any(*_bucket_and_key(self._full(prefix)))
            if self.is_local:
                return any(name.startswith(prefix) for name in os.listdir(self.root))
            found = self.filesystem.get_file_info(fs.FileSelector(self.root))
            return any(info.base_name.startswith(prefix) for info in found)
        return False

    def read(self, path: str = "") -> bytes:
        """A whole file.

        Raises:
            StorageError: it is not there, cannot be read, or changes all the time.
        """
        return self.fetch(path).data

    def fetch(self, path: str = "") -> StoredBytes:
        """A whole file, with the time and the tag of the version that was read.

        Raises:
            StorageError: it is not there, cannot be read, or changes all the time.
        """
        return _fetch(self.scheme, self._full(path), self.uri(path))

    def open(self, path: str) -> Any:
        """A file for random access, for pyarrow to read; each read is one ranged request on an object store."""
        with self._failing("cannot be read", path):
            if self.scheme == "s3":
                return s3.RangedReader(*_bucket_and_key(self._full(path)))
            return self.filesystem.open_input_file(self._full(path))

    def write(self, path: str, data: bytes, *, modified_at: datetime | None = None, replace: bool = True) -> None:
        """Write a whole file, so that a reader sees all of it or nothing; folders are made.

        Args:
            path: relative; one that would leave the root is refused.
            modified_at: becomes the file's time, where the store keeps one that can be set.
            replace: False leaves a file that is there as it is.

        Raises:
            AlreadyExistsError: a file is there, and is not to be replaced.
            PathConflictError: a folder is where the file would be, or a file where its folder would be.
            StorageError: it cannot be written, or the path is unsafe: on this machine also where it leads through a link.
        """
        full = self._full(check_relative(path))
        with self._failing("cannot be written", path):
            if self.is_local:
                write_whole(self.root, os.fsdecode(name_of_key(path)), data, modified_at, replace=replace)
                return
            if self.scheme == "s3":
                s3.put(*_bucket_and_key(full), data, replace=replace)
                return
            if not replace and self.exists(path):
                raise FileExistsError(full)
            self.filesystem.create_dir(os.path.dirname(full), recursive=True)
            with self.filesystem.open_output_stream(full) as stream:
                stream.write(data)

    def delete(self, path: str) -> None:
        """Delete one file; one that is gone already is no error.

        Raises:
            StorageError: it cannot be deleted, or the path is unsafe.
        """
        full = self._full(check_relative(path))
        with self._failing("cannot be deleted", path), contextlib.suppress(FileNotFoundError):
            if self.scheme == "s3":
                s3.delete(*_bucket_and_key(full))
                return
            if self.is_local:
                os.unlink(full)
                return
            self.filesystem.delete_file(full)

    def now(self) -> datetime:
        """What the clock says that gives files here their times; this machine's may differ.

        Raises:
            StorageError: the store cannot be asked.
        """
        with self._failing("does not tell the time"):
            if self.scheme == "s3":
                return s3.now(_bucket_and_key(self.root)[0])
            if self.is_local:
                try:
                    # A file of no name: of a file system in the network, its server's clock.
                    with tempfile.TemporaryFile(dir=self.root) as file:
                        return _modified_at(os.fstat(file.fileno())) or datetime.now(UTC)
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EROFS):  # who may not write does not delete either
                        raise
        return datetime.now(UTC)

    @property
    def filesystem(self) -> fs.FileSystem:
        """pyarrow's file system for this URL, which is not on S3."""
        with self._failing("cannot be opened"):
            return _filesystem(self.scheme)

    @property
    def root(self) -> str:
        """Path of the root within `filesystem`."""
        return self.url if self.is_local else self.url.split("://", 1)[1]

    def delta_url(self) -> str:
        """What delta-rs is given in place of `url`.

        Raises:
            SettingError: it would take it for another place.
        """
        return url_for_delta(self.url)

    def delta_options(self) -> dict[str, str]:
        """Storage options of delta-rs for this URL, as of now; conditional puts make its commits atomic on S3.

        Raises:
            SettingError: S3 is not set up: `s3.credentials` says why.
            StorageError: boto3's chain finds no credentials, where delta-rs would ask the network for some; or the store
                cannot be reached, where `s3.give_up_early` was called.
        """
        if self.scheme != "s3":
            return {}
        options = s3.credentials()
        if "AWS_ACCESS_KEY_ID" not in options:
            message = "unable to locate credentials"
            raise StorageError(f"{self.url} cannot be opened: {message}{s3.hint(message)}")
        with self._failing("cannot be opened"):
            s3.make_contact(self._bucket_and_folder()[0])
        if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
        return options | {"conditional_put": "etag", "timeout": f"{s3.TIMEOUT_S:.0f}s"}

    def _full(self, path: str) -> str:
        """The path within `filesystem`; on S3, bucket and key; on this machine, as the kernel takes it."""
        if not path:
            return self.root
        if self.scheme == "s3":
            return "/".join(self._bucket_and_folder()) + path
        return os.path.join(self.root, os.fsdecode(name_of_key(path)) if self.is_local else path)

    def _bucket_and_folder(self) -> tuple[str, str]:
        """The bucket, and what the keys of all objects under the root begin with."""
        bucket, folder = _bucket_and_key(self.root)
        return bucket, folder if not folder or folder.endswith("/") else f"{folder}/"

    def _failing(self, what: str, path: str = "") -> contextlib.AbstractContextManager[None]:
        return _failing(self.uri(path), what)


def fetch(uri: str) -> StoredBytes:
    """Read the whole file whose `uri` a listing gave: that very one, where a path made of its parts may name another.

    Raises:
        StorageError: it is not there, cannot be read, or changes all the time.
    """
    scheme = scheme_of(uri)
    return _fetch(scheme, uri.split("://", 1)[1] if scheme else os.fsdecode(name_of_key(uri)), uri)


def _fetch(scheme: str, full: str, uri: str) -> StoredBytes:
    with _failing(uri, "cannot be read"):
        if scheme == "s3":
            data, modified_at, etag = s3.get(*_bucket_and_key(full))
            return StoredBytes(data=data, modified_at=modified_at, etag=etag)
        for _ in range(_MAX_READS):
            before = _state(scheme, full)
            if scheme:
                with _filesystem(scheme).open_input_stream(full) as stream:
                    data = bytes(stream.read())
            else:
                with open(full, "rb") as file:  # not pyarrow, whose paths are UTF-8
                    data = file.read()
            if before == _state(scheme, full) and len(data) == before[0]:
                return StoredBytes(data=data, modified_at=before[1], etag=None)
    raise StorageError(f"{uri} changed each time that it was read: is something still writing it?")


_MAX_READS = 3


def _state(scheme: str, full: str) -> tuple[int, datetime | None]:
    """Size and time of change."""
    if not scheme:
        status = os.stat(full)
        return status.st_size, _modified_at(status)
    info = _filesystem(scheme).get_file_info(full)
    return info.size, info.mtime


def _filesystem(scheme: str) -> fs.FileSystem:
    if not scheme:
        return fs.LocalFileSystem()
    import fsspec

    return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))


@contextlib.contextmanager
def _failing(uri: str, what: str) -> Iterator[None]:
    try:
        yield
    except (SettingError, StorageError):
        raise
    except FileNotFoundError as error:
        raise StorageError(f"{uri} does not exist") from error
    except FileExistsError as error:
        raise AlreadyExistsError(f"{uri} is there already, and is left as it is") from error
    except Exception as error:
        raise StorageError(f"{uri} {what}: {told(error)}") from error


def told(error: BaseException) -> str:
    """The message of a store's error in one line, with what to do about it where the cause is known.

    delta-rs reports a chain of causes, with terminal colours between them, a backtrace, or the body of the store's answer.
    """
    message = re.split(r"\s+0: ", _COLOURS.sub("", str(error)))[0]
    answer = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", message, re.DOTALL)
    message = f"{answer[1]}: {answer[2]}" if answer else message.rpartition(_CAUSED_BY)[2]
    message = " ".join(message.split())
    return message + s3.hint(message)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CAUSED_BY = "\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS} "


def check_relative(path: str) -> str:
    """`path` itself, if it stays below whatever root it is joined to.

    Raises:
        StorageError: absolute, with `.` or `..`, with a NUL, or the name of a folder.
    """
    # `.` too: the file `.` of a folder is the folder, which a file would replace.
    if not path or path.startswith("/") or path.endswith("/") or "\0" in path or not {".", ".."}.isdisjoint(path.split("/")):
        raise StorageError(f"{path!r} is no safe path below a folder")
    return path


def _bucket_and_key(full: str) -> tuple[str, str]:
    bucket, _, key = full.partition("/")
    return bucket, key


def _modified_at(status: os.stat_result) -> datetime | None:
    """Time of change; None outside of the years 1 to 9999, which some file systems can store."""
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return None
