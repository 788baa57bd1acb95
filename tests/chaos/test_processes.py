"""Processes that die, photos that kill, disks that are full, sources that change: real processes throughout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import Archive, read_rows
from pipeline.records import Outcome
from tests.support import command_line

pytestmark = pytest.mark.chaos
PHOTOARK = [sys.executable, "-m", "jobs"]
# Loaded by every process of the job: a decoder with a bug that some photos hit, each time, and a codec that others are too
# large for: the kernel then ends the actor.
KILLER = """
import ctypes, os
from PIL import Image, ImageFile

load, save = ImageFile.ImageFile.load, Image.Image.save

def killing_load(image):
    if image.size == (162, 122):
        ctypes.string_at(0)
    return load(image)

def killing_save(image, *arguments, **options):
    if image.size == (161, 121):
        os.kill(os.getpid(), 9)
    return save(image, *arguments, **options)

ImageFile.ImageFile.load, Image.Image.save = killing_load, killing_save
"""


def photoark(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, with a Ray of its own."""
    return subprocess.run(
        [*PHOTOARK, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
        timeout=1740,
    )


def write_photos(folder: Path, count: int) -> dict[str, bytes]:
    """Small photos of coloured squares; name -> bytes."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for i in range(count):
        pixels = np.kron(chance.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((10, 10, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"{i:03d}.jpg")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def faults(soak: bool) -> tuple[int, int, dict[str, dict[str, Any]]]:
    """How many processes were killed, how many photos there were, and what each kind of fault came to."""
    rounds, num_photos = (20, 600) if soak else (4, 200)
    result = photoark("bench", "faults", "--rounds", rounds, "--photos", num_photos)
    assert result.returncode == 0, result.stderr[-2000:]
    return rounds, num_photos, {tally["fault"]: tally for tally in json.loads(result.stdout.splitlines()[-1])["faults"]}


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_kills_lose_and_repeat_nothing(faults: tuple[int, int, dict[str, dict[str, Any]]]) -> None:
    rounds, num_photos, tallies = faults
    # Photos travel in blocks of 16. The one in the codec is done again, and of a driver what it had not committed.
    most = {"kill driver": num_photos / 4, "kill actor": 16, "kill worker": 16}
    found = [tallies[fault] for fault in most]
    assert sum(tally["injected"] for tally in found) == rounds
    for tally in found:
        assert (tally["lost"], tally["duplicated"]) == (0, 0), tally
        assert len(tally["repeated"]) == tally["injected"]
        assert all(repeated <= most[tally["fault"]] for repeated in tally["repeated"]), tally


@pytest.mark.soak
@pytest.mark.s3
@pytest.mark.timeout(1800)
def test_faults_of_the_store_lose_nothing_from_end_to_end(faults: tuple[int, int, dict[str, dict[str, Any]]]) -> None:
    _, _, tallies = faults
    found = {fault: tally for fault, tally in tallies.items() if not fault.startswith("kill ")}
    assert found["expired"]["injected"] > 0
    assert sum(tally["injected"] for tally in found.values()) > 10
    assert all((tally["lost"], tally["duplicated"]) == (0, 0) for tally in found.values()), found


@pytest.mark.usefixtures("ray_session")
def test_a_photo_that_ends_its_process_every_time_fails_alone(tmp_path: Path) -> None:
    source, archive = tmp_path / "photos", tmp_path / "archive"
    photos = write_photos(source, 20)
    Image.new("RGB", (162, 122)).save(source / "003.jpg")
    Image.new("RGB", (161, 121)).save(source / "012.jpg")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    result = photoark("encode", source, archive, "--codec", "webp", "--json", PYTHONPATH=f"{tmp_path / 'site'}")
    assert result.returncode == 3, result.stderr
    assert all(json.loads(line) for line in result.stdout.splitlines())  # nothing else got between
    rows = {row.key: row for row in read_rows(Archive.open(str(archive)))}
    assert rows.keys() == photos.keys()
    failed = {key: row.reason or "" for key, row in rows.items() if row.outcome is Outcome.FAILED}
    assert failed.keys() == {"003.jpg", "012.jpg"}
    assert "SIGSEGV" in failed["003.jpg"]
    assert "ended the process" in failed["012.jpg"]
    assert verify(Archive.open(str(archive))).is_clean
    planned = json.loads(command_line.photoark("retry", source, archive, "--dry-run", "--json").stdout)
    assert (planned["failures"], planned["gone"]) == (failed, [])
    mended = command_line.photoark("retry", source, archive, "--codec", "webp")
    assert mended.returncode == 0, mended.stderr
    assert {row.outcome for row in read_rows(Archive.open(str(archive)))} == {Outcome.ENCODED}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("pattern", ["*", "00*"])
def test_a_stream_that_ends_its_process_every_time_is_told_and_the_others_come_back(tmp_path: Path, pattern: str) -> None:
    source, archive, restored = tmp_path / "photos", tmp_path / "archive", tmp_path / "restored"
    photos = write_photos(source, 20)
    Image.new("RGB", (161, 121)).save(source / "003.jpg")
    assert command_line.photoark("encode", source, archive, "--codec", "webp").returncode == 0
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    result = photoark("decode", archive, restored, "--include", pattern, "--json", PYTHONPATH=f"{tmp_path / 'site'}")
    assert result.returncode == 3, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    ((key, reason),) = summary["failures"]
    assert key == "003.jpg"
    assert "ended the process" in reason
    # What a process that died was about to write may lie there under another name.
    names = {path.name for path in restored.iterdir() if path.suffix != ".part"}
    assert names == {name for name in photos if fnmatch(name, pattern)} - {"003.jpg"}


def test_a_full_disk_is_told_and_the_same_command_goes_on(tmp_path: Path) -> None:
    source, small = tmp_path / "photos", tmp_path / "small"
    photos = write_photos(source, 40)
    small.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", small], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    encode = f"{sys.executable} -m jobs encode {source} {small}/archive --codec original"
    script = (
        f"mount -t tmpfs -o size=96k tmpfs {small}; {encode}; echo $?; mount -o remount,size=64m {small}; {encode}; echo $?"
    )
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{script}; cp -r {small}/archive {tmp_path}/archive"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    codes = [line for line in result.stdout.splitlines() if line.isdigit()]
    assert codes == ["1", "0"], result.stdout + result.stderr
    assert "make room, then try again" in result.stderr
    assert "Traceback" not in result.stderr
    rows = {row.key: row.image for row in read_rows(Archive.open(f"{tmp_path}/archive"))}
    assert rows == photos
    assert verify(Archive.open(f"{tmp_path}/archive")).is_clean


def test_two_drivers_at_once_and_a_source_that_changes_under_them(tmp_path: Path) -> None:
    source, archive = tmp_path / "photos", tmp_path / "archive"
    write_photos(source, 60)
    stop = threading.Event()

    def change() -> None:
        i = 0
        while not stop.is_set():
            target = source / f"{i % 60:03d}.jpg"
            new = np.random.default_rng(i).integers(0, 256, (40 + i % 7, 50, 3), dtype=np.uint8)
            part = source / ".part"
            Image.fromarray(new).save(part, "JPEG")
            part.replace(target)
            i += 1
            time.sleep(0.02)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        command = [*PHOTOARK, "encode", str(source), str(archive), "--codec", "original"]
        env = {**os.environ, "PHOTOARK_COMMIT_INTERVAL_S": "0.2"}
        drivers = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for _ in range(2)]
        errors = [driver.communicate(timeout=300)[1].decode() for driver in drivers]
    finally:
        stop.set()
        changer.join()
    assert [driver.returncode for driver in drivers] == [0, 0], errors
    report = verify(Archive.open(str(archive)))
    assert (report.damages, report.num_rows) == ((), 60)
    # Each row proves a version that the source had: its size and SHA-256 are those of the bytes that it keeps.
    for row in read_rows(Archive.open(str(archive))):
        assert row.image is not None
        assert row.source_bytes == len(row.image)
