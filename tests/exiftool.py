"""exiftool, by which metadata is held against what everybody else reads: the one that `make` brings, or the system's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_FROM_MAKE = Path(sys.prefix) / "exiftool" / "bin" / "exiftool"


def exiftool(*arguments: object) -> str:
    """Run exiftool and return what it prints; `-m` lets it write beside maker notes of a maker that it does not know."""
    result = subprocess.run([*_command(), "-m", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def tags_of(folder: Path) -> dict[str, dict[str, Any]]:
    """File name -> what its metadata says, `group:tag` -> value, of every file in a folder; blocks as text."""
    told = json.loads(exiftool("-j", "-G1", "-a", "-e", "-b", "-u", folder))
    return {Path(tags["SourceFile"]).name: tags for tags in told}


def _command() -> list[str]:
    if _FROM_MAKE.exists() and shutil.which("perl"):
        return ["perl", str(_FROM_MAKE)]
    if found := shutil.which("exiftool"):
        return [found]
    missing = "exiftool is not here: install it (Debian: libimage-exiftool-perl), or npm and perl, and run `make exiftool`"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)
