"""Machines are counted by the time that they are there; limits hold, and need what they are reckoned with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.watch import Budget, watched
from pipeline.archive.writer import ArchiveWriter
from pipeline.records import Outcome
from tests.pipeline.archive.test_archive import row
from tests.support.command_line import photoark

ROOT = Path(__file__).parents[2]


def machine(name: str, gpus: float) -> dict[str, Any]:
    """As Ray lists it."""
    return {"NodeID": name, "Alive": True, "Resources": {"CPU": 4.0, "GPU": gpus}}


def test_machines_that_come_and_go_are_told_and_paid_for() -> None:
    present = [machine("head", 0), machine("a", 2)]
    with watched(0.05, lambda: list(present)) as watch:
        time.sleep(0.5)
        present.append(machine("b", 1))
        time.sleep(0.5)
        del present[1]
        time.sleep(0.5)
    assert [(event.node, event.joined) for event in watch.events[2:]] == [("b", True), ("a", False)]
    assert watch.most_gpus == 3
    assert watch.gpu_s == pytest.approx(0.5 * 2 + 0.5 * 3 + 0.5 * 1, rel=0.2)
    assert watch.node_s == pytest.approx(0.5 * 2 + 0.5 * 3 + 0.5 * 2, rel=0.2)
    assert watch.cost(3600) == pytest.approx(watch.gpu_s)
    assert Budget(max_cost=0.001, price_per_hour=3600).is_spent(watch)
    assert not Budget(max_cost=1000, price_per_hour=3600).is_spent(watch)
    assert Budget(max_hours=1e-5).is_spent(watch)
    assert not Budget().is_spent(watch)


def test_a_cost_needs_a_price(tmp_path: Path) -> None:
    result = photoark("encode", str(tmp_path), str(tmp_path / "archive"), "--max-cost", "5")
    assert result.returncode == 2
    assert "--price" in result.stderr


@pytest.mark.usefixtures("ray_session")
def test_a_job_stops_at_its_limit_and_goes_on_from_there(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    source, archive, report = tmp_path / "photos", str(tmp_path / "archive"), tmp_path / "report"
    source.mkdir()
    for i in range(80):
        (source / f"{i:03d}.jpg").write_bytes(photo_files["wine.jpg"])
    # Used up before the first block is done, or soon after.
    stopped = photoark("encode", str(source), archive, "--codec", "jpeg", "--max-hours", "1e-4", "--report", str(report))
    assert stopped.returncode == 12, stopped.stderr
    assert "goes on from there" in stopped.stderr
    committed = len(ArchiveWriter.open(archive).keys())
    assert committed < 80
    found = json.loads((report / "report.json").read_text())
    assert found["summary"]["stopped"]
    assert sum(one["commit_rows"] for one in found["history"]["bins"]) == committed
    assert sum(actor["photos"] for actor in found["history"]["actors"].values()) >= committed
    assert found["machines"]["events"][0]["joined"]
    page = (report / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "photos/s" in page
    assert 'src="' not in page and "src='http" not in page and 'href="http' not in page
    if committed:
        assert page.index("times smaller</h1>") < page.index("data:image/jpeg;base64,") < page.index("<svg")
    again = photoark("encode", str(source), archive, "--codec", "jpeg")
    assert again.returncode == 0, again.stderr
    assert len(ArchiveWriter.open(archive).keys()) == 80


def test_a_job_that_waits_for_machines_stops_at_its_limit_too(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    source, archive = tmp_path / "photos", str(tmp_path / "archive")
    source.mkdir()
    (source / "wine.jpg").write_bytes(photo_files["wine.jpg"])
    ArchiveWriter.open_or_create(archive).commit([row("wine.jpg", outcome=Outcome.FAILED)])
    # One GPU may come, and none does.
    limits = ["--device", "cuda", "--max-gpus", "1", "--max-hours", "1e-3"]
    command = [sys.executable, "-m", "jobs", "retry", str(source), archive, *limits]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)
    assert result.returncode == 12, result.stderr
    assert "stopped at the limit with 1 photo to do" in result.stderr


@pytest.mark.usefixtures("ray_session")
def test_a_plan_tells_pools_time_bytes_and_cost(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for i in range(64):
        (source / f"{i:03d}.jpg").write_bytes(photo_files["wine.jpg"])
    arguments = ["plan", str(source), str(tmp_path / "archive"), "--codec", "jpeg", "--json", "--sizes", "1,2", "--price", "3"]
    result = photoark(*arguments)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    one, two = (row["forecast"] for row in found["clusters"])
    assert found["estimate"]["expected_megapixels"] == pytest.approx(64 * 320 * 960 / 1e6, rel=0.01)
    assert two["photos_per_s"] == pytest.approx(2 * one["photos_per_s"], rel=0.01)
    assert one["hours"] > two["hours"]
    assert one["cost"] == pytest.approx(3 * one["size_hours"], abs=0.01)
    assert [row["pool"]["max_actors"] for row in found["clusters"]] == [1, 2]
    assert not (tmp_path / "archive").exists()
    wrong = photoark(*arguments[:3], "--sizes", "few")
    assert wrong.returncode == 2
