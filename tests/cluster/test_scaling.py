"""The scaling benchmark runs, and its last line can be read by a program; what it finds is not for a test to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.s3]


def test_scaling_is_measured_and_modelled(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "bench", "scaling", "--actors", "2", "--seconds", "1", "--ms-per-megapixel", "20"]
    result = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "scaling.json").read_text())
    (run,) = found["runs"]
    assert run["num_photos"] > 0
    assert 0 < run["efficiency_first_block_to_last"] <= 1
    assert found["costs"]["row_s"] > 0
    assert found["costs"]["photo_s"] > 0
    assert {row["num_gpus"] for row in found["model"]} >= {100, 1000}
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
