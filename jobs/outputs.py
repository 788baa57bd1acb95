"""Files that a command writes for a person: checked before the work begins, and never put in another's place unasked."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline.errors import SettingError
from pipeline.storage.names import key_of_name


def check_output(path: Path, *, overwrite: bool) -> None:
    """Check that a file can be written to `path`: its folder is there, and nothing that would be replaced.

    Raises:
        SettingError: there is something already and `overwrite` is false, or the file cannot or should not be there.
    """
    from pipeline.storage.archive_files import archive_around
    from pipeline.storage.base import Storage

    folder = path.parent
    if not folder.is_dir():
        raise SettingError(
            f"{shown(path)} cannot be written: there is no folder {shown(folder)}; make it, or name another file"
        )
    try:
        mode = os.stat(path).st_mode if os.path.exists(path) else os.lstat(path).st_mode
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SettingError(f"{shown(path)} cannot be written: {error.strerror}; name another file") from error
    else:
        if stat.S_ISDIR(mode):
            raise SettingError(f"{shown(path)} is a folder: name a file")
        if is_stream(path):
            return
        if not overwrite:
            raise SettingError(f"{shown(path)} is there already: replace it with --overwrite, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SettingError(f"{shown(path)} cannot be written: no permission to write to the folder {shown(folder)}")
    if archive := archive_around(Storage(folder)):
        raise SettingError(f"{shown(path)} would lie in the archive {archive}: name another file")


def check_outputs(folder: Path, names: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that files of these names can be written to `folder`, which need not be there yet.

    Raises:
        SettingError: there is something already, or the folder is none.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"{shown(folder)} is no folder: name another one")
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and not overwrite:
        raise SettingError(f"{', '.join(there)} in {shown(folder)} already: replace with --overwrite, or name another folder")


def check_report(folder: Path) -> None:
    """Check that a job can write its report into `folder`, in the place of an earlier one or of nothing.

    Raises:
        SettingError: files that are no report have its names.
    """
    there = [folder / name for name in ("report.json", "report.html") if (folder / name).exists()]
    others = [path.name for path in there if not _is_report(path)]
    if others or (folder.exists() and not folder.is_dir()):
        what = f"{' and '.join(others)} in {shown(folder)}" if others else shown(folder)
        raise SettingError(f"{what} would be replaced by a report, and is none: name another folder with --report")


def _is_report(path: Path) -> bool:
    data = path.read_bytes() if path.is_file() else b""
    return b"<title>photoark" in data or b'"gpu_hours"' in data


def is_stream(path: Path) -> bool:
    """Whether `path` is a pipe or a device, as /dev/stdout is, which takes bytes and holds no file."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def shown(path: Path) -> str:
    """A path as text, also where its name is not UTF-8."""
    return key_of_name(os.fsencode(path))
