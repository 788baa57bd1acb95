"""Which files of a source are taken: patterns, and what is left out unless somebody asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

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
_WILDCARDS = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of a source to take."""

    include: tuple[str, ...] = ()
    """Patterns (`fnmatch`, over the whole key, so that `*` crosses slashes) one of which must match; empty: all do."""
    exclude: tuple[str, ...] = ()
    """Patterns none of which may match; they win over `include`."""
    default_excludes: bool = True
    """Leave out `DEFAULT_EXCLUDES`."""
    photos_only: bool = False
    """Leave out files that are no photos, companions of photos included."""

    def refusal(self, key: str) -> SkipReason | None:
        """Why a file of this name is not taken; None if it is, as far as names tell."""
        from pipeline.records import SkipReason

        if self.default_excludes and _is_excluded_by_default(key):
            return SkipReason.EXCLUDED_BY_DEFAULT
        if any(fnmatchcase(key, pattern) for pattern in self.exclude):
            return SkipReason.EXCLUDED
        if self.include and not any(fnmatchcase(key, pattern) for pattern in self.include):
            return SkipReason.NOT_INCLUDED
        return None

    def takes(self, key: str) -> bool:
        """Whether a file of this name is taken, as far as names tell."""
        return self.refusal(key) is None

    def folder_refusal(self, folder: str) -> SkipReason | None:
        """Why no file below a folder can be taken; None if one may be.

        Args:
            folder: key of the folder, without a slash at its end.
        """
        from pipeline.records import SkipReason

        inside = f"{folder}/"
        if self.default_excludes and _is_excluded_by_default(inside):
            return SkipReason.EXCLUDED_BY_DEFAULT
        # A pattern that matches whatever follows; others may leave some of the files.
        if any(pattern.endswith("*") and fnmatchcase(inside, pattern) for pattern in self.exclude):
            return SkipReason.EXCLUDED
        if self.include and not any(_may_match_below(inside, pattern) for pattern in self.include):
            return SkipReason.NOT_INCLUDED
        return None


DEFAULT_SELECTION = Selection()
"""Every file but `DEFAULT_EXCLUDES`."""
ALL = Selection(default_excludes=False)
"""Every file there is."""


def _is_excluded_by_default(key: str) -> bool:
    *folders, name = key.lower().split("/")
    return name in _FILES or any(
        folder in _PLAIN_FOLDERS or any(fnmatchcase(folder, pattern) for pattern in _FOLDER_PATTERNS) for folder in folders
    )


def _may_match_below(inside: str, pattern: str) -> bool:
    """Whether a key that begins with `inside` may match: what stands before the first wildcard decides."""
    end = min((pattern.find(character) for character in _WILDCARDS if character in pattern), default=len(pattern))
    fixed = pattern[:end]
    return fixed.startswith(inside) or (end < len(pattern) and inside.startswith(fixed))
