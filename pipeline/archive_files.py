"""The files that an archive consists of, so that others that lie beside them can be told apart."""

from __future__ import annotations

import re
from contextlib import suppress

from pipeline.errors import StorageError
from pipeline.storage import Storage

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
