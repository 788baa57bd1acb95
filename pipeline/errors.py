"""What can go wrong, as one tree.

    PhotoarkError
    ├── SettingError        a bad setting or argument: nothing was started (exit code 2)
    ├── PhotoError          one photo cannot be encoded or decoded: becomes a row with a reason
    │   ├── UnreadablePhotoError    the file is not an image, is truncated, or is too large to open
    │   ├── UnsupportedPhotoError   a good image that no codec here can represent: kept as its bytes
    │   └── OriginalNotStoredError  its own bytes are asked for, and the archive holds a stream alone
    ├── StreamError         a bitstream cannot be decoded
    │   ├── CorruptStreamError      damaged, truncated, or its symbols fail their checksum
    │   └── UnknownModelError       it needs a codec or a model that is not installed
    ├── ArchiveError        the archive as a whole
    │   ├── ArchiveNotFoundError    there is none at this URL
    │   ├── KeyNotFoundError        it holds no such key
    │   └── ArchiveDamagedError     bytes differ from what was written
    ├── StorageError        a URL cannot be listed, read or written
    │   ├── AlreadyExistsError      a file is there, and was not to be replaced
    │   └── PathConflictError       a folder is where a file would be, or a file where its folder would be
    └── CheckpointError     a weights file lacks tensors, has others, or fails its fingerprint

Every message says what happened and what to do about it. Errors about one photo carry its key. None holds a credential: other
libraries' errors become part of ours, ours become rows and logs, so what looks like one is taken out where they are made.
"""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"SECRET|PASSW|TOKEN|API_?KEY|PRIVATE_KEY|ACCESS_KEY", re.IGNORECASE)
_NO_SECRET_NAME = re.compile(r"_(PATH|FILE|URI|URL|DIR)$", re.IGNORECASE)
_LEAST_SECRET = 8
"""Characters: a shorter value would be found in words."""
_VALUE = r"[\"']?[^\s&,;\"'<]+"
_SECRETS = (
    # User and password in a URL; the latter may have slashes, the former is no host with a port.
    re.compile(r"(?<=://)(?:[^\s/@:]+:(?!\d+/)[^\s@]+|[^/\s@]+)(?=@)"),
    re.compile(r"(?<![a-z])(?:x-amz-(?:security-token|signature|credential))[\"']?\s*[=:]\s*" + _VALUE, re.IGNORECASE),
    re.compile(r"(?<![a-z])(?:aws.?)?(?:secret|session).{0,8}(?:key|token)[\"']?\s*[=:]\s*" + _VALUE, re.IGNORECASE),
    re.compile(r"(?<![a-z])(?:credential|signature|sig|password|token)=" + _VALUE, re.IGNORECASE),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),
)


def redacted(text: str) -> str:
    """`text` without what may be a credential: values of environment variables named so, and what stands where one would."""
    for name, value in os.environ.items():
        if len(value) >= _LEAST_SECRET and _SECRET_NAME.search(name) and not _NO_SECRET_NAME.search(name):
            text = text.replace(value, "***")
    for pattern in _SECRETS:
        text = pattern.sub("***", text)
    return text


class PhotoarkError(Exception):
    """Root of every error that photoark raises on purpose."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        # Decoders end some of theirs with a line break; ours stand in one line, in rows and on a terminal.
        message = redacted(" ".join(filter(None, map(str.strip, message.splitlines()))))
        super().__init__(message if key is None else f"{key}: {message}")
        self.message = message
        self.key = key

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries; the default would lose the keyword.
        return _rebuild, (type(self), self.message, self.key)


def _rebuild(kind: type[PhotoarkError], message: str, key: str | None) -> PhotoarkError:
    return kind(message, key=key)


class SettingError(PhotoarkError):
    """A setting, a flag or an argument is wrong; nothing was started."""


class PhotoError(PhotoarkError):
    """One photo cannot be processed; the others go on."""


class UnreadablePhotoError(PhotoError):
    """The bytes are no image, are cut short, or would decode to more pixels than allowed."""


class UnsupportedPhotoError(PhotoError):
    """A sound image that no codec can represent without loss of kind (16-bit, CMYK, animation, alpha)."""


class OriginalNotStoredError(PhotoError):
    """A photo's own bytes are asked for, and the archive holds a bitstream alone."""


class StreamError(PhotoarkError):
    """A bitstream cannot be decoded."""


class CorruptStreamError(StreamError):
    """The bitstream is damaged, truncated, or its symbols fail their checksum."""


class UnknownModelError(StreamError):
    """The bitstream names a codec or a model that is not installed."""


class ArchiveError(PhotoarkError):
    """The archive as a whole cannot be used."""


class ArchiveNotFoundError(ArchiveError):
    """There is no archive at this URL."""


class KeyNotFoundError(ArchiveError, KeyError):
    """The archive holds no photo of this key."""

    __str__ = Exception.__str__  # that of KeyError quotes the message


class ArchiveDamagedError(ArchiveError):
    """Stored bytes differ from what was written."""


class StorageError(PhotoarkError):
    """A URL cannot be listed, read or written."""


class AlreadyExistsError(StorageError):
    """A file is there already, and was not to be replaced."""


class PathConflictError(StorageError):
    """A folder is where the file would be, or a file where its folder would be."""


class CheckpointError(PhotoarkError):
    """A weights file lacks tensors, has unexpected ones, or fails its fingerprint."""
