"""Files that belong to a photo beside which they lie: the film of a Live Photo, an edit, a sidecar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.records import Photo
from pipeline.sources.file_kinds import PHOTO_SUFFIXES

COMPANION_SUFFIXES = frozenset({"aae", "dop", "json", "mov", "mp4", "pp3", "thm", "wav", "xmp"})


def with_companions(photos: Sequence[Photo]) -> list[Photo]:
    """The same files, in their order; those that belong to another say to which.

    `a.mov` and `a.xmp` belong to `a.heic` in the same folder, and `a.heic.xmp` does; capital letters are small ones.
    """
    by_name: dict[str, str] = {}
    for photo in photos:
        stem, suffix = _parts(photo.key)
        if suffix in PHOTO_SUFFIXES:
            by_name[photo.key.lower()] = photo.key
            by_name.setdefault(stem, photo.key)
    found = []
    for photo in photos:
        stem, suffix = _parts(photo.key)
        found.append(replace(photo, companion_of=by_name.get(stem)) if suffix in COMPANION_SUFFIXES else photo)
    return found


def _parts(key: str) -> tuple[str, str]:
    folder, slash, name = key.lower().rpartition("/")
    stem, _, suffix = name.rpartition(".")
    return folder + slash + stem, suffix
