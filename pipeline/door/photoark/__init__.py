"""Keep large photo collections as bitstreams of neural or classical codecs in Parquet. The source is never changed.

    import photoark

    photoark.encode("photos/", "archive", codec="ditic-small", quality=3)
    with photoark.open("archive") as archive:
        pixels = archive["2024/a.jpg"].pixels
    photoark.decode("archive", "restored/")

A generative codec (`ditic`, `ditic-small`) synthesises part of the detail of a restored photo: keep the sources.

Import photoark before torch: it lets torch's OpenMP threads sleep while they wait, which torch reads only when it is loaded.
"""

from __future__ import annotations

from importlib.metadata import version

from photoark._archive import Archive, Photo, open
from photoark._jobs import decode, encode, restore
from pipeline.decode.restore import RestoredPhoto
from pipeline.errors import (
    ArchiveDamagedError,
    ArchiveError,
    ArchiveNotFoundError,
    CheckpointError,
    CorruptStreamError,
    KeyNotFoundError,
    PhotoarkError,
    PhotoError,
    SettingError,
    StorageError,
    StreamError,
    UnknownModelError,
)
from pipeline.job_summary import JobSummary
from pipeline.records import EncodedPhoto, KeepOriginal, Outcome

__version__ = version("photoark")
__all__ = [
    "encode",
    "decode",
    "restore",
    "open",
    "Archive",
    "Photo",
    "EncodedPhoto",
    "RestoredPhoto",
    "JobSummary",
    "Outcome",
    "KeepOriginal",
    "PhotoarkError",
    "SettingError",
    "ArchiveError",
    "ArchiveNotFoundError",
    "ArchiveDamagedError",
    "KeyNotFoundError",
    "PhotoError",
    "StreamError",
    "CorruptStreamError",
    "UnknownModelError",
    "CheckpointError",
    "StorageError",
]
