"""Photos for jobs on a cluster, and a way to run drivers beside the test."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import Archive, read_rows

ROOT = Path(__file__).parents[2]


@dataclass(slots=True)
class Driver:
    """A driver in a process of its own."""

    process: subprocess.Popen[bytes]
    out: Path
    errors: Path

    def messages(self) -> list[dict[str, Any]]:
        """What it said so far: progress and, at the end, what it saw."""
        lines = self.out.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def num_done(self) -> int:
        """Photos, by its last word."""
        return max((message.get("num_done", 0) for message in self.messages()), default=0)

    def result(self, within_s: float = 300) -> dict[str, Any]:
        """What it saw, once it has ended well."""
        assert self.process.wait(within_s) == 0, self.errors.read_text()[-3000:]
        return self.messages()[-1]


@pytest.fixture
def photos(tmp_path: Path, photo_files: dict[str, bytes]) -> Callable[[int], Path]:
    """A folder with so many copies of a small photo."""

    def make(number: int) -> Path:
        folder = tmp_path / "photos"
        folder.mkdir()
        for i in range(number):
            (folder / f"{i:04d}.tiff").write_bytes(photo_files["seeding.tiff"])
        return folder

    return make


@pytest.fixture
def driver(tmp_path: Path) -> Any:
    """Start a driver with a request and an environment; whatever still runs at the end is killed."""
    started: list[Driver] = []

    def start(environment: dict[str, str], **request: Any) -> Driver:
        number = len(started)
        out, errors = tmp_path / f"driver-{number}.out", tmp_path / f"driver-{number}.err"
        command = [sys.executable, "-W", "ignore", "-m", "tests.cluster.driver", json.dumps(request)]
        with out.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=stderr)
        started.append(Driver(process, out, errors))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def assert_holds_each_once(archive: Path, number: int) -> None:
    """Every photo is in the archive once, encoded, and every byte is sound."""
    opened = Archive.open(str(archive))
    keys = [row.key for row in read_rows(opened, columns=["key", "outcome"])]
    assert sorted(keys) == [f"{i:04d}.tiff" for i in range(number)]
    assert all(row.outcome == "encoded" for row in read_rows(opened, columns=["key", "outcome"]))
    assert verify(opened).is_clean
