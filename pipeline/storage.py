"""The one place that opens URLs: local paths, s3:// through boto3, anything else through fsspec.

delta-rs gets the credentials that boto3's chain finds (environment, profile, role), so that both speak as the same user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from pipeline import s3
from pipeline.errors import SettingError, StorageError, redacted
from pipeline.local_files import FolderRefusal, OnSkip, walk
from pipeline.records import SkipReason

# A user, with or without a password (which may have slashes, where a host may have a port), or a signature.
_WITH_CREDENTIALS = re.compile(
    r"^\w+://([^/]*@|[^/@:]*:(?!\d+(/|$))|.*[?&](x-amz-\w|sig=|signature=|token=|password=|secret=))", re.IGNORECASE
)


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


class Storage:
    """A root URL and what lies under it. Cheap to make and to send to another process: it opens on first use."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        """Name a root: a local path, `s3://bucket/prefix`, or a URL of a scheme that fsspec knows.

        Raises:
            SettingError: the URL holds credentials, which would then stand in every row.
        """
        text = os.fspath(url)
        if _WITH_CREDENTIALS.search(text):
            raise SettingError(
                f"credentials in a URL ({redacted(text)}) end up in rows and logs: put them into the environment or ~/.aws"
            )
        scheme = urlsplit(text).scheme if "://" in text else ""
        if scheme in ("", "file"):
            text = os.path.abspath(text.removeprefix("file://"))
            scheme = ""
        self.scheme = scheme
        self.url = text.rstrip("/") or "/"

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.url,)

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    @property
    def is_local(self) -> bool:
        return self.scheme == ""

    def uri(self, path: str) -> str:
        """Full URL of a relative path."""
        return f"{self.url}/{path}" if path else self.url

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
                bucket, prefix = _bucket_and_key(self.root)
                for key, size, changed, etag in s3.list_objects(bucket, prefix):
                    path = key[len(prefix) + 1 :] if prefix else key
                    if key.endswith("/") and not size:
                        on_skip(SkipReason.FOLDER_MARKER, path or key)
                        continue
                    yield StoredFile(path=path, uri=self.uri(path), size_bytes=size, modified_at=changed, etag=etag)
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

        def skip(reason: SkipReason, text: str) -> None:
            on_skip(reason, _spelled(text))

        for found, status in walk(self.root, skip, lambda folder: folder_refusal(_spelled(folder))):
            path = _spelled(found)
            size, modified = (0, None) if status is None else (status.st_size, _modified_at(status))
            yield StoredFile(path=path, uri=self.uri(path), size_bytes=size, modified_at=modified)

    def exists(self, path: str = "") -> bool:
        """Whether there is a file or a folder."""
        with self._failing("cannot be looked at"):
            if self.scheme == "s3":
                return s3.exists(*_bucket_and_key(self._full(path)))
            return bool(self.filesystem.get_file_info(self._full(path)).type != fs.FileType.NotFound)

    def holds_any(self, prefix: str) -> bool:
        """Whether the name of anything directly below the root begins so; without listing what lies deeper."""
        with self._failing("cannot be looked at"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.scheme == "s3":
                bucket, key = _bucket_and_key(self._full(prefix))
                return any(True for _ in s3.list_objects(bucket, key, as_folder=False))
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
        full = self._full(path)
        with self._failing("cannot be read", path):
            if self.scheme == "s3":
                data, modified_at, etag = s3.get(*_bucket_and_key(full))
                return StoredBytes(data=data, modified_at=modified_at, etag=etag)
            for _ in range(_MAX_READS):
                before = self._state(full)
                with self.filesystem.open_input_stream(full) as stream:
                    data = bytes(stream.read())
                if before == self._state(full) and len(data) == before[0]:
                    return StoredBytes(data=data, modified_at=before[1], etag=None)
        raise StorageError(f"{self.uri(path)} changed each time that it was read: is something still writing it?")

    def _state(self, full: str) -> tuple[int, datetime | None]:
        """Size and time of change."""
        if self.is_local:
            status = os.stat(full)
            return status.st_size, _modified_at(status)
        info = self.filesystem.get_file_info(full)
        return info.size, info.mtime

    def open(self, path: str) -> Any:
        """A file for random access, for pyarrow to read; each read is one ranged request on an object store."""
        with self._failing("cannot be read", path):
            if self.scheme == "s3":
                return s3.RangedReader(*_bucket_and_key(self._full(path)))
            return self.filesystem.open_input_file(self._full(path))

    def write(self, path: str, data: bytes, *, modified_at: datetime | None = None) -> None:
        """Write a whole file, so that a reader sees all of it or nothing; folders are made.

        Args:
            path: relative; one that would leave the root is refused.
            modified_at: becomes the file's time, where the store keeps one that can be set.

        Raises:
            StorageError: it cannot be written, or the path is unsafe.
        """
        full = self._full(check_relative(path))
        with self._failing("cannot be written", path):
            if self.is_local:
                _write_local(Path(full), data, modified_at)
                return
            if self.scheme == "s3":
                s3.put(*_bucket_and_key(full), data)
                return
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
        if self.is_local:
            return fs.LocalFileSystem()
        import fsspec

        with self._failing("cannot be opened"):
            return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(self.scheme)))

    @property
    def root(self) -> str:
        """Path of the root within `filesystem`."""
        return self.url if self.is_local else self.url.split("://", 1)[1]

    def delta_options(self) -> dict[str, str]:
        """Storage options of delta-rs for this URL, as of now; conditional puts make its commits atomic on S3."""
        if self.scheme != "s3":
            return {}
        options = s3.credentials()
        if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
            options["AWS_ALLOW_HTTP"] = "true"
        return options | {"conditional_put": "etag", "timeout": f"{s3.TIMEOUT_S:.0f}s"}

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    @contextlib.contextmanager
    def _failing(self, what: str, path: str = "") -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError as error:
            if self.is_local and re.search(r"\\x[0-9a-f]{2}", self.uri(path)):
                raise StorageError(f"{self.uri(path)} has a name that is not UTF-8: rename it") from error
            raise StorageError(f"{self.uri(path)} does not exist") from error
        except Exception as error:
            raise StorageError(f"{self.uri(path)} {what}: {told(error)}") from error


_MAX_READS = 3


def told(error: BaseException) -> str:
    """An error of a store in one line (the SDKs spread theirs), and what to do about it where its cause is known."""
    # Rust adds a backtrace.
    message = " ".join(re.split(r"\s+0: ", str(error))[0].split())
    return message + s3.hint(message)


def check_relative(path: str) -> str:
    """`path` itself, if it stays below whatever root it is joined to.

    Raises:
        StorageError: absolute, with `.` or `..`, with a NUL, or the name of a folder.
    """
    # `.` too: the file `.` of a folder is the folder, which a file would replace.
    if not path or path.startswith("/") or path.endswith("/") or "\0" in path or not {".", ".."}.isdisjoint(path.split("/")):
        raise StorageError(f"{path!r} is no safe path below a folder")
    return path


def _spelled(path: str) -> str:
    """A local path as text: bytes that are not UTF-8 become `\\x..`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _write_local(target: Path, data: bytes, modified_at: datetime | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two threads may write one file: a shard's name follows from what is in it.
    part = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:12]}.part")
    try:
        with part.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        if modified_at is not None:
            os.utime(part, (modified_at.timestamp(),) * 2)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _bucket_and_key(full: str) -> tuple[str, str]:
    bucket, _, key = full.partition("/")
    return bucket, key


def _modified_at(status: os.stat_result) -> datetime | None:
    """Time of change; None outside of the years 1 to 9999, which some file systems can store."""
    try:
        return datetime.fromtimestamp(status.st_mtime_ns // 1000 / 1e6, UTC)
    except (ValueError, OverflowError, OSError):
        return None
