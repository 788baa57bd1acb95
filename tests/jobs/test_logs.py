"""Log lines: JSON, from every process of a job, saying which photo, in which stage, at which try."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.archive.reader import Archive
from pipeline.logs import JsonLines, about
from tests.support.command_line import photoark

ROOT = Path(__file__).parents[2]
# Loaded by every process of the job: a decoder and an encoder with a bug, each hit by one photo every time.
KILLER = """
import ctypes
from PIL import Image, ImageFile

load, save = ImageFile.ImageFile.load, Image.Image.save

def killing_load(image):
    if image.size == (161, 121):
        ctypes.string_at(0)
    return load(image)

def killing_save(image, *arguments, **options):
    if image.size == (163, 121):
        ctypes.string_at(0)
    return save(image, *arguments, **options)

ImageFile.ImageFile.load, Image.Image.save = killing_load, killing_save
"""
DECODER, ENCODER, BAD = "b/decoder.jpg", "b/encoder.png", "a/bad.jpg"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of a job with a file that is no image, a photo that crashes its decoder, and one that ends the actor each time."""
    folder = tmp_path_factory.mktemp("logs")
    for name in ("photos/a", "photos/b", "site"):
        (folder / name).mkdir(parents=True)
    (folder / "photos" / BAD).write_text("no image")
    Image.new("RGB", (161, 121)).save(folder / "photos" / DECODER)
    Image.new("RGB", (163, 121)).save(folder / "photos" / ENCODER)
    Image.new("RGB", (160, 120)).save(folder / "photos" / "fine.png")
    (folder / "site" / "sitecustomize.py").write_text(KILLER)
    command = [sys.executable, "-m", "jobs", "encode", str(folder / "photos"), str(folder / "archive"), "--codec", "webp"]
    environment = os.environ | {"PYTHONPATH": f"{folder / 'site'}", "PHOTOARK_LOG_LEVEL": "debug", "PHOTOARK_JOB": "nightly"}
    result = subprocess.run(
        [*command, "--log-file", str(folder / "job.log")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert f"failed: {BAD}: " in result.stderr, "words for a person, as without log lines"
    assert len(Archive.open(str(folder / "archive")).keys()) == 4
    return [json.loads(line) for line in (folder / "job.log").read_text().splitlines()]


def about_key(lines: list[dict[str, Any]], key: str) -> list[tuple[str, str, int]]:
    return [(line["event"], line["stage"], line["attempt"]) for line in lines if line.get("key") == key]


def test_every_line_says_when_where_and_of_which_job(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert line.keys() >= {"time", "level", "event", "logger", "job", "host", "pid"}
        at = datetime.fromisoformat(line["time"])
        assert at.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - at) < timedelta(hours=1)
    assert {line["job"] for line in lines} == {"nightly"}
    assert len({line["pid"] for line in lines}) > 1, "the driver's alone"
    assert (lines[0]["event"], lines[-1]["event"]) == ("job started", "job ended")
    assert (lines[-1]["num_encoded"], lines[-1]["num_failed"]) == (1, 3)


def test_a_photo_that_failed_has_a_line_with_stage_attempt_and_reason(lines: list[dict[str, Any]]) -> None:
    # The other photos of the block ended their actor: this one came through by itself, at the third try.
    assert about_key(lines, BAD) == [("photo failed", "probe", 3)]
    (line,) = (line for line in lines if line.get("key") == BAD)
    assert "not an image" in line["reason"]
    assert line["node"] and line["actor"]


def test_tries_are_counted_until_a_photo_is_given_up(lines: list[dict[str, Any]]) -> None:
    ended = "the process that worked on this photo alone ended"
    assert about_key(lines, ENCODER) == [(ended, "isolate", 3), (ended, "isolate", 4), ("photo failed", "isolate", 4)]
    (given_up,) = (line for line in lines if line.get("key") == ENCODER and line["event"] == "photo failed")
    assert "ended the process each of 2 times" in given_up["reason"]
    (alone,) = (line for line in lines if line.get("stage") == "isolate" and "key" not in line)
    assert alone["num_photos"] == 4


def test_workers_write_into_the_same_file(lines: list[dict[str, Any]]) -> None:
    crash = "the decoder process ended over a file"
    seen = about_key(lines, DECODER)
    # In the block twice, and alone: each time the decoder is given two tries.
    assert seen[-1] == ("photo failed", "pixels", 3)
    assert set(seen[:-1]) == {(crash, "pixels", 1), (crash, "pixels", 2)}
    for line in lines:
        if line["event"] == crash:
            assert (line["reason"], line["level"]) == ("ended by SIGSEGV", "warning")
            assert line["node"] and line["actor"] and line["pid"] != lines[0]["pid"]


def test_each_commit_has_a_line(lines: list[dict[str, Any]]) -> None:
    commits = [line for line in lines if line.get("stage") == "commit"]
    assert sum(line["num_rows"] for line in commits) == 4
    assert [line["version"] for line in commits] == list(range(1, len(commits) + 1))
    assert all(line["took_s"] > 0 and line["attempt"] == 1 for line in commits)


def test_standard_error_holds_nothing_else(tmp_path: Path) -> None:
    arguments = ["verify", str(tmp_path / "nothing"), "--log-format", "json"]
    result = subprocess.run([sys.executable, "-m", "jobs", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    (line,) = map(json.loads, result.stderr.splitlines())
    assert line["level"] == "error"
    assert "there is no archive" in line["event"]


def test_a_log_file_that_cannot_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    result = photoark("verify", tmp_path, "--log-file", tmp_path / "no" / "job.log")
    assert (result.returncode, "--log-file" in result.stderr) == (2, True)


def test_no_credential_gets_into_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    secret, token = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "FwoGZXIvYXdzEXAMPLETOKEN=="
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    presigned = f"https://bucket.s3.amazonaws.com/a.jpg?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE&X-Amz-Signature={token}"
    record = logging.getLogger("other").makeRecord(
        "other", logging.WARNING, "there", 1, "asked %s with %s", (presigned, secret), None,
        extra={"url": presigned, "reason": f"aws_secret_access_key={token}", "headers": {"x-amz-security-token": token}},
    )  # fmt: skip
    try:
        raise RuntimeError(f"GET {presigned} as {secret}")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    with about(key="a.jpg", stage=f"password={token}"):
        line = JsonLines("job").format(record)
    assert json.loads(line).keys() >= {"url", "reason", "headers", "exception", "stage"}
    for part in (secret, token, "AKIA", "EXAMPLE"):
        assert part not in line
    assert json.loads(line)["key"] == "a.jpg"
