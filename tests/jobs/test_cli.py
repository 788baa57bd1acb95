"""The commands as a person runs them: output, exit codes, signals."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import find
from pipeline.archive.writer import ArchiveWriter
from tests.support.command_line import photoark

pytestmark = pytest.mark.usefixtures("ray_session")
PHOTOARK = [sys.executable, "-m", "jobs"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("wine.jpg", "sunset.png", "brushes.jpg"):
        (folder / name).write_bytes(photo_files[name])
    (folder / "notes.txt").write_bytes(b"\xff\xd8\xffno photo")
    return folder


@pytest.fixture(scope="module")
def archive(source: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    path = tmp_path_factory.mktemp("cli") / "archive"
    result = photoark("encode", source, path, "--codec", "webp", "--json")
    assert result.returncode == 3, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["event"] for line in lines} == {"progress", "summary"}
    summary = lines[-1]
    assert (summary["num_encoded"], summary["num_failed"]) == (3, 1)
    assert summary["failures"] == [["notes.txt", "the file is not an image of a known format"]]
    return path


def test_a_dry_run_of_what_is_done_finds_nothing_to_do(source: Path, archive: Path) -> None:
    result = photoark("encode", source, archive, "--codec", "webp", "--dry-run", "--json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert (found["event"], found["num_photos"], found["num_todo"], found["expected_bytes"]) == ("dry_run", 4, 0, 0)


def test_a_dry_run_tells_what_the_job_comes_to_and_writes_nothing(source: Path, archive: Path, tmp_path: Path) -> None:
    result = photoark("encode", source, tmp_path / "none", "--codec", "webp", "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["num_todo"], found["num_sampled"], found["num_sample_failures"]) == (4, 4, 1)
    # All of so small a source is sampled, so what is expected is what comes.
    assert found["expected_bytes"] == json.loads(photoark("stat", archive, "--json").stdout)["stream_bytes"]
    assert not (tmp_path / "none").exists()
    assert "expected, from 4 samples" in photoark("encode", source, tmp_path / "none", "--codec", "webp", "--dry-run").stdout


def test_a_file_that_is_not_stored_is_told_by_every_run(source: Path, archive: Path) -> None:
    result = photoark("encode", source, archive, "--codec", "webp")
    assert result.returncode == 3, result.stderr
    assert "3 files were stored already\nnothing to encode\n1 file is not stored; photoark retry" in result.stdout
    assert "not stored: notes.txt: the file is not an image of a known format\n" in result.stderr


def test_ls_and_stat_tell_what_is_there(archive: Path) -> None:
    assert photoark("ls", archive).stdout.split("\n")[:-1] == ["brushes.jpg", "notes.txt", "sunset.png", "wine.jpg"]
    chosen = photoark("ls", archive, "--include", "*.png", "--include", "b*", "--include", "w*", "--exclude", "*.jp?")
    assert chosen.stdout.strip() == "sunset.png"
    nothing = photoark("ls", archive, "--include", "*.jpg", "--exclude", "*")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "matches --include '*.jpg' --exclude '*'" in nothing.stderr
    rows = [json.loads(line) for line in photoark("ls", archive, "--json").stdout.splitlines()]
    assert {row["key"]: row["outcome"] for row in rows}["notes.txt"] == "failed"
    totals = json.loads(photoark("stat", archive, "--json").stdout)
    assert totals["num_photos"] == 4
    assert totals["outcomes"] == {"encoded": 3, "failed": 1}
    assert totals["codecs"] == {"webp": 3}
    assert 0 < totals["stream_bytes"] < totals["source_bytes"]
    assert "3 encoded" in photoark("stat", archive).stdout


def test_restore_writes_a_file_or_standard_output(archive: Path, tmp_path: Path, source: Path) -> None:
    result = photoark("restore", archive, "brushes.jpg", "-o", tmp_path / "m.jpg", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["codec"] == "webp"
    assert (tmp_path / "m.jpg").stat().st_mtime == pytest.approx((source / "brushes.jpg").stat().st_mtime, abs=1e-5)
    piped = subprocess.run([*PHOTOARK, "restore", str(archive), "brushes.jpg", "-o", "-"], capture_output=True, check=True)
    # Turned as the source is: its orientation says how to display it.
    assert Image.open(io.BytesIO(piped.stdout)).size == Image.open(io.BytesIO((source / "brushes.jpg").read_bytes())).size


def test_verify_finds_a_flipped_byte(archive: Path, tmp_path: Path) -> None:
    assert photoark("verify", archive, "--decode").returncode == 3  # one file is not stored
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(archive), str(copy)], check=True)
    (shard,) = ArchiveWriter.open(str(copy)).shards()
    data = bytearray((copy / shard.path).read_bytes())
    data[len(data) // 3] ^= 1
    (copy / shard.path).write_bytes(data)
    result = photoark("verify", copy, "--json")
    assert result.returncode == 4
    (damage,) = json.loads(result.stdout)["damages"]
    assert (damage["shard"], damage["kind"]) == (shard.path, "bytes")
    assert damage["keys"] == ["brushes.jpg", "notes.txt", "sunset.png", "wine.jpg"]
    assert "brushes.jpg, notes.txt" in photoark("verify", copy).stderr


def test_verify_compares_with_the_source_and_lists_orphans(source: Path, archive: Path, tmp_path: Path) -> None:
    result = photoark("verify", archive, "--against", source, "--sample", "100%")
    assert result.returncode == 3, result.stderr
    assert "3 streams decoded" in result.stdout
    assert "3 files the same\n1 file not stored\nkeep the source" in result.stdout
    assert result.stdout.count("not stored: notes.txt: the file is not an image of a known format\n") == 1
    copy, changed = tmp_path / "copy", tmp_path / "changed"
    shutil.copytree(archive, copy)
    shutil.copytree(source, changed)
    (copy / "photos-left.parquet").write_bytes(b"left")
    (changed / "notes.txt").unlink()
    (changed / "new.jpg").write_bytes((source / "wine.jpg").read_bytes())
    os.utime(changed / "wine.jpg", (1, 1))
    data = bytearray((source / "sunset.png").read_bytes())
    data[-20] ^= 1
    stat = (changed / "sunset.png").stat()
    (changed / "sunset.png").write_bytes(data)
    os.utime(changed / "sunset.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = photoark("verify", copy, "--against", changed, "--json")
    assert result.returncode == 3, result.stderr
    report = json.loads(result.stdout)
    against = report["against"]
    assert (against["missing"], against["extra"], report["damages"]) == (["new.jpg"], [], [])
    assert against["gone_failures"] == {"notes.txt": "the file is not an image of a known format"}
    assert [change["key"] for change in against["changed"]] == ["wine.jpg"]
    assert report["orphans"] == [{"path": "photos-left.parquet", "size_bytes": 4}]
    result = photoark("verify", copy, "--against", changed, "--checksum")
    assert result.returncode == 3
    assert "changed: sunset.png: other bytes (SHA-256)" in result.stdout
    assert "1 other file in the folder, 4 bytes\nno part of the archive: photos-left.parquet: 4 bytes\n" in result.stdout
    assert "wine.jpg" not in result.stdout


def test_a_damaged_archive_is_repaired_from_its_source(source: Path, archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)
    (shard,) = ArchiveWriter.open(str(copy)).shards()
    (copy / shard.path).unlink()
    command = ("verify", copy, "--against", source, "--repair", "--codec", "webp", "--json")
    result = photoark(*command)
    assert result.returncode == 3, result.stderr  # notes.txt cannot be encoded, now as before
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["damages"], report["against"]["missing"], report["num_rows"]) == ([], [], 4)
    assert (report["repair"]["num_encoded"], report["repair"]["failed"]) == (3, ["notes.txt"])
    assert [orphan["path"] for orphan in report["orphans"]] == []
    result = photoark(*command)
    found = json.loads(result.stdout)
    assert (result.returncode, found["repair"], [*found["not_stored"]]) == (3, None, ["notes.txt"])


def test_retry_optimize_and_vacuum(source: Path, archive: Path, tmp_path: Path) -> None:
    copy, mended = tmp_path / "copy", tmp_path / "mended"
    shutil.copytree(archive, copy)
    shutil.copytree(source, mended)
    (mended / "notes.txt").write_bytes((source / "wine.jpg").read_bytes())
    result = photoark("retry", mended, copy, "--codec", "webp", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["num_photos"], summary["num_encoded"], summary["num_failed"]) == (1, 1, 0)
    opened = ArchiveWriter.open(str(copy))
    opened.commit([replace(find(opened, "wine.jpg"), key="twin.jpg")])
    planned = photoark("optimize", copy, "--dry-run", "--json")
    assert len(ArchiveWriter.open(str(copy)).shards()) == 2
    done = photoark("optimize", copy, "--json")
    assert json.loads(done.stdout) == {**json.loads(planned.stdout), "dry_run": False}
    assert len(ArchiveWriter.open(str(copy)).shards()) == 1
    assert "nothing to delete" in photoark("vacuum", copy, "--dry-run").stdout
    assert "3 files deleted" in photoark("vacuum", copy, "--retention-hours", "0").stdout
    report = verify(ArchiveWriter.open(str(copy)))
    assert (report.num_rows, report.is_clean, report.orphans) == (5, True, ())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "/absent", "ARCHIVE"], 2, "does not exist"),
        (["encode", "SOURCE", "ARCHIVE", "--codec", "gif"], 2, "no codec is called"),
        (["encode", "SOURCE", "ARCHIVE", "--quality", "0"], 2, "setting quality"),
        (["encode", "SOURCE"], 2, "ARCHIVE"),
        (["encode", "SOURCE", "ARCHIVE", "--keep-original", "sometimes"], 2, "setting keep_original"),
        (["encode", "SOURCE", "ARCHIVE", "--keep-original", "always", "--strip-gps"], 2, "leave one of them out"),
        (["retry", "SOURCE", "ARCHIVE", "--gate", "beauty=1"], 2, "no metric"),
        (["restore", "ARCHIVE", "sunset.png", "--original"], 2, "--keep-original always"),
        (["restore", "ARCHIVE", "sunset.png", "--original", "--format", "PNG"], 2, "leave one of them out"),
        (["encode", "SOURCE", "ARCHIVE", "--config", "/absent.toml"], 2, "no such file"),
        (["restore", "ARCHIVE", "absent.jpg"], 2, "no such photo"),
        (["restore", "ARCHIVE", "notes.txt"], 1, "not an image"),
        (["ls", "/absent"], 2, "no archive"),
        (["verify", "ARCHIVE", "--sample", "120%"], 2, "--sample 120%"),
        (["verify", "ARCHIVE", "--checksum"], 2, "--against"),
        (["verify", "ARCHIVE", "--against", "/absent"], 2, "does not exist"),
        (["verify", "ARCHIVE", "--repair"], 2, "--against"),
        (["vacuum", "ARCHIVE", "--retention-hours", "-1"], 2, "0 or more"),
        (["freeze", "/absent.pt", "-o", "x.safetensors", "--calibration", "SOURCE"], 1, "not a training checkpoint"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str, source: Path, archive: Path
) -> None:
    result = photoark(*({"SOURCE": source, "ARCHIVE": archive}.get(a, a) for a in arguments))
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_settings_come_from_flag_then_environment_then_file(source: Path, tmp_path: Path) -> None:
    config = tmp_path / "photoark.toml"
    config.write_text('codec = "bmp"\n')
    dry = ("encode", source, tmp_path / "none", "--config", config)
    assert "'bmp'" in photoark(*dry).stderr
    assert "'gif'" in photoark(*dry, PHOTOARK_CODEC="gif").stderr
    assert "'tga'" in photoark(*dry, "--codec", "tga", PHOTOARK_CODEC="gif").stderr
    config.write_text("nonsense = 1\n")
    assert "setting nonsense" in photoark(*dry).stderr


@pytest.mark.chaos
def test_a_job_that_was_interrupted_and_then_terminated_is_finished_by_the_same_command(tmp_path: Path) -> None:
    source, archive = tmp_path / "photos", tmp_path / "archive"
    source.mkdir()
    rng = np.random.default_rng(0)
    for i in range(200):
        pixels = np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8))
        Image.fromarray(pixels).save(source / f"{i:03d}.jpg")
    command = [*PHOTOARK, "encode", str(source), str(archive), "--codec", "avif"]
    settings = {**os.environ, "PHOTOARK_COMMIT_INTERVAL_S": "0.1"}
    with (tmp_path / "errors").open("w") as errors:
        driver = subprocess.Popen(command, env=settings, start_new_session=True, stderr=errors)
    _wait_until(lambda: _num_keys(archive) >= 16, timeout_s=120)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    assert driver.wait(60) == 130
    said = (tmp_path / "errors").read_text()
    assert said.endswith("photoark: interrupted; what was committed stays, and the same command goes on from there\n"), said
    assert "Traceback" not in said
    committed = _num_keys(archive)

    with (tmp_path / "errors").open("w") as errors:
        driver = subprocess.Popen(command, env=settings, start_new_session=True, stderr=errors)
    _wait_until(lambda: committed < _num_keys(archive), timeout_s=120)
    os.killpg(driver.pid, signal.SIGTERM)  # as a service manager does: Ray's own processes receive it too
    assert driver.wait(60) == 143
    said = (tmp_path / "errors").read_text()
    assert said.endswith("photoark: terminated; what was committed stays, and the same command goes on from there\n"), said
    assert "Traceback" not in said
    assert "SIGTERM" not in said
    left = _num_keys(archive)
    assert 16 <= committed < left < 200

    result = subprocess.run([*command, "--json"], env=settings, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["num_skipped"] == left
    assert summary["num_encoded"] == 200 - left
    report = verify(ArchiveWriter.open(str(archive)))
    assert report.num_rows == 200
    assert report.is_clean


def _num_keys(archive: Path) -> int:
    return len(ArchiveWriter.open(str(archive)).keys()) if (archive / "_delta_log").exists() else 0


def _wait_until(condition: object, *, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.2)
