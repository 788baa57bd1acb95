"""No entry of a source ends the listing of the others: it is a row that says why, or left out by name."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive.reader import Archive, read_rows
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.sources.folder import list_source
from tests.cases.odd_folders import keys_of, skips_of, write_photos

YEAR_30828 = 910_692_648_000


@pytest.mark.usefixtures("ray_session")
def test_links_that_cannot_be_followed_become_failed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    write_photos(source, "a.png")
    links = {"loop.png": "loop.png", "nothing.png": "nowhere.png", "notdir.png": "a.png/b.png", "long.png": "x" * 300 + ".png"}
    for name, target in links.items():
        (source / name).symlink_to(target)
    os.mkfifo(source / "pipe.png")
    monkeypatch.chdir(source)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="webp")
    summary = encode(job)
    assert (summary.num_photos, summary.num_encoded, summary.num_failed) == (5, 1, 4)
    assert {key for key, _ in summary.failures} == links.keys()
    assert [(s.reason.value, s.first) for s in summary.skipped] == [("special_file", ("pipe.png", "socket.png"))]


LIST_AS_NOBODY = """
import json, os, sys
from pipeline.records import photos_to_table
from pipeline.sources.folder import list_source
from pipeline.sources.selection import Selection
from pipeline.encode.read import read_block
if os.geteuid() == 0:  # whom no permission stops
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
listing = list_source(sys.argv[1], Selection(exclude=tuple(sys.argv[2:])))
read = read_block(photos_to_table(listing.photos)).to_pylist()
reasons = {row["key"]: row["reason"] for row in read}
skipped = [[s.reason, s.num_entries, *s.first] for s in listing.skipped]
print(json.dumps([reasons, skipped, listing.lacks("closed/a.png"), listing.lacks("open/a.png")]))
"""


def listed_as_nobody(source: Path, *exclude: str) -> list[Any]:
    """What a user who is not root lists and reads of `source`."""
    command = [sys.executable, "-c", LIST_AS_NOBODY, str(source), *exclude]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: list[Any] = json.loads(result.stdout)
    return found


def test_folders_and_files_that_may_not_be_read(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if stat.S_IMODE(folder.stat().st_mode) == 0o700:  # pytest's own, of which a process of pytest-xdist has one more
            folder.chmod(0o755)
    source = tmp_path / "source"
    write_photos(source, "a.png", "closed/b.png", "lost+found/c.png", "secret.png")
    write_photos(tmp_path / "other", "d.png")
    (source / "link.png").symlink_to(tmp_path / "other/d.png")
    (source / "secret.png").chmod(0)
    for folder in (source / "closed", source / "lost+found", tmp_path / "other"):
        folder.chmod(0)
    try:
        rows, skipped, lacks_closed, lacks_open = listed_as_nobody(source)
        assert rows["a.png"] is None
        assert "Permission denied" in rows["link.png"]
        assert "Permission denied" in rows["secret.png"]
        # `lost+found` is excluded by default, so that it may be closed.
        assert skipped == [
            ["excluded_by_default", 1, "lost+found: Permission denied"],
            ["unreadable_folder", 1, "closed: Permission denied"],
        ]
        assert (lacks_closed, lacks_open) == (False, True)
        _, skipped, _, _ = listed_as_nobody(source, "closed/*")
        assert [reason for reason, *_ in skipped] == ["excluded", "excluded_by_default"]
    finally:
        for folder in (source / "closed", source / "lost+found", tmp_path / "other"):
            folder.chmod(0o755)


def test_paths_that_are_too_long_are_named(tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png")
    here = os.open(tmp_path, os.O_DIRECTORY)
    home = os.getcwd()
    try:
        os.fchdir(here)
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("deep.png").write_bytes(b"x")
    finally:
        os.chdir(home)
        os.close(here)
    listing = list_source(str(tmp_path))
    assert keys_of(listing) == ["a.png"]
    assert skips_of(listing) == {"unreadable_folder": 1}
    assert listing.skipped[0].first[0].endswith(": File name too long")


@pytest.mark.usefixtures("ray_session")
def test_a_time_that_no_calendar_has_is_missing(tmp_path: Path) -> None:
    folder = Path("/dev/shm") / tmp_path.name  # which stores such times; others cut them
    try:
        write_photos(folder, "a.png", "b.png", "old.png")
        os.utime(folder / "b.png", (YEAR_30828, YEAR_30828))
        os.utime(folder / "old.png", (-62_135_596_800, -62_135_596_800))
        if (folder / "b.png").stat().st_mtime != YEAR_30828:
            pytest.skip("no file system here stores a time after the year 9999")
        job = EncodeJob(source=str(folder), archive=str(tmp_path / "archive"), codec="webp")
        assert encode(job).num_encoded == 3
        rows = {row.key: row for row in read_rows(Archive.open(job.archive))}
        assert rows["b.png"].modified_at is None
        assert rows["old.png"].modified_at == datetime(1, 1, 1, tzinfo=UTC)
        again = encode(job)
        assert (again.num_skipped, again.num_changed, again.num_updated) == (3, 0, 0)
    finally:
        for path in folder.glob("*"):
            path.unlink()
        folder.rmdir()
