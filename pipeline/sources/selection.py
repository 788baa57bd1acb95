"""Which files of a source are taken: patterns, and what is left out unless somebody asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pipeline.patterns import KeyPatterns

if TYPE_CHECKING:
    # The command line's help names the defaults, and loads no pyarrow for it.
    from pipeline.records import SkipReason

DEFAULT_EXCLUDES = (
    "#recycle/", "#snapshot/", "$RECYCLE.BIN/", ".@__thumb/", ".Spotlight-V100/", ".Trash-*/", ".Trashes/", ".fseventsd/",
    ".thumbnails/", "@Recently-Snapshot/", "@Recycle/", "@eaDir/", "System Volume Information/", "lost+found/",
    ".DS_Store", "Thumbs.db", "desktop.ini",
)  # fmt: skip
"""Thumbnails, bins, snapshots and notes of NAS systems and desktops: names of folders (with a slash) and files at any depth, in
capital or small letters."""
_FOLDERS = tuple(pattern[:-1].lower() for pattern in DEFAULT_EXCLUDES if pattern.endswith("/"))
_FILES = frozenset(pattern.lower() for pattern in DEFAULT_EXCLUDES if not pattern.endswith("/"))
_PLAIN_FOLDERS = frozenset(name for name in _FOLDERS if "*" not in name)
_FOLDER_PATTERNS = tuple(name for name in _FOLDERS if "*" in name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(KeyPatterns):
    """Which files of a source to take."""

    default_excludes: bool = True
    """Leave out `DEFAULT_EXCLUDES`."""
    photos_only: bool = False
    """Leave out files that are no photos, companions of photos included."""

    def refusal(self, key: str) -> SkipReason | None:
        """Return why a file of this name is not taken; None if it is, as far as names tell."""
        from pipeline.records import SkipReason

        if self.default_excludes and _is_excluded_by_default(key):
            return SkipReason.EXCLUDED_BY_DEFAULT
        return KeyPatterns.refusal(self, key)  # `super()` knows no class that dataclass has made again, for its slots

    def folder_refusal(self, folder: str) -> SkipReason | None:
        """Return why no file below a folder can be taken; None if one may be.

        Args:
            folder: key of the folder, without a slash at its end.
        """
        from pipeline.records import SkipReason

        if self.default_excludes and _is_excluded_by_default(f"{folder}/"):
            return SkipReason.EXCLUDED_BY_DEFAULT
        return KeyPatterns.folder_refusal(self, folder)


DEFAULT_SELECTION = Selection()
"""Every file but `DEFAULT_EXCLUDES`."""
ALL = Selection(default_excludes=False)
"""Every file there is."""


def _is_excluded_by_default(key: str) -> bool:
    *folders, name = key.lower().split("/")
    return name in _FILES or any(
        folder in _PLAIN_FOLDERS or any(fnmatchcase(folder, pattern) for pattern in _FOLDER_PATTERNS) for folder in folders
    )
