"""The benchmarks of scaling run, and their last line can be read by a program; what they find is not for a test to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.s3]


def bench(*arguments: str) -> tuple[dict[str, Any], str]:
    """The last line of `photoark bench`, and all that it said."""
    result = subprocess.run([sys.executable, "-m", "jobs", "bench", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stdout


def test_scaling_is_measured_and_modelled(tmp_path: Path) -> None:
    options = ["--actors", "2", "--seconds", "1", "--ms-per-megapixel", "20", "--photos-per-s", "40", "--out", str(tmp_path)]
    found, said = bench("scaling", *options)
    assert found == json.loads((tmp_path / "scaling.json").read_text())
    (run,) = found["runs"]
    assert run["num_photos"] > 0
    assert 0 < run["efficiency_first_block_to_last"] <= 1
    assert 0 < run["start_s"]["first_actor"] <= run["start_s"]["last_actor"]
    assert run["start_s"]["first_actor"] < run["start_s"]["first_commit"]
    assert found["at_rate"]["num_photos"] == 40
    assert min(found["at_rate"]["driver_cpu_share"].values()) >= 0 < found["at_rate"]["driver_cpu_share"]["rows"]
    # What did not happen for real is named.
    assert found["simulated_pixels"]["s_per_megapixel"] > 0
    assert "pixels are decoded by waiting" in said
    assert found["store"]["gets_per_s"] > 0
    assert found["costs"]["row_s"] > 0
    assert found["costs"]["photo_s"] > 0
    assert {row["num_gpus"] for row in found["model"]} >= {100, 1000}
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_the_memory_of_a_run_is_watched(tmp_path: Path) -> None:
    found, said = bench("flat", "--rows", "200", "--actors", "1", "--out", str(tmp_path / "flat.json"))
    assert found == json.loads((tmp_path / "flat.json").read_text())
    assert [sample["num_done"] for sample in found["samples"]] == sorted(sample["num_done"] for sample in found["samples"])
    assert all(sample["driver_bytes"] > 50 << 20 for sample in found["samples"])
    assert found["rows_per_s"] > 0
    assert "bytes" in said.splitlines()[-2]
