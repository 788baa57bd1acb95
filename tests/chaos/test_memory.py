"""An actor whose memory runs out in earnest: the photo that is too much has a row that says so, the others are encoded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import Archive, read_rows
from pipeline.records import EncodedPhoto, Outcome
from tests.chaos.test_processes import write_photos

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[2]


@pytest.fixture
def groups() -> Iterator[Path]:
    """A folder in which the kernel makes control groups that limit memory."""
    top = next((path for path in map(Path, ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")) if path.is_dir()), Path("/nowhere"))
    folder = top / f"photoark-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        if (folder / "cgroup.subtree_control").exists():
            (folder / "cgroup.subtree_control").write_text("+memory")
    except OSError:
        pytest.skip("this machine lets nobody make a control group")
    yield folder
    for path in (*folder.glob("*/"), folder):
        end_s = time.monotonic() + 20
        while (path / "cgroup.procs").read_text() and time.monotonic() < end_s:
            time.sleep(0.1)
        path.rmdir()


def encoded(folder: Path, limit: str) -> dict[str, EncodedPhoto]:
    """Five small photos, and one for which the codec takes more than the limit."""
    source, archive = folder / "photos", folder / "archive"
    write_photos(source, 5)
    Image.effect_noise((1200, 800), 50).convert("RGB").save(source / "large.jpg")
    command = [sys.executable, "-m", "tests.chaos.hungry", str(source), str(archive), limit]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert verify(Archive.open(str(archive))).is_clean
    rows = {row.key: row for row in read_rows(Archive.open(str(archive)))}
    assert {key for key, row in rows.items() if row.outcome is Outcome.ENCODED} == {f"{i:03d}.jpg" for i in range(5)}
    return rows


def test_a_photo_for_which_the_kernel_ends_the_actor_each_time_fails_alone(tmp_path: Path, groups: Path) -> None:
    large = encoded(tmp_path, str(groups))["large.jpg"]
    assert large.outcome is Outcome.FAILED
    assert "ended the process each of 2 times" in (large.reason or "")
    assert len(list(groups.glob("*/"))) >= 4  # together twice, alone twice


def test_a_photo_that_gets_no_more_memory_is_kept_as_its_bytes(tmp_path: Path) -> None:
    large = encoded(tmp_path, "process")["large.jpg"]
    assert large.outcome is Outcome.KEPT
    assert "memory" in (large.reason or "").lower()
    assert large.image == (tmp_path / "photos" / "large.jpg").read_bytes()
