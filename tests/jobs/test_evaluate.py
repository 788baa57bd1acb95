"""`photoark evaluate` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.support.command_line import photoark


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("sunset.png", "seeding.tiff"):
        (folder / name).write_bytes(photo_files[name])
    return folder


def test_table_plot_crops_and_json(folder: Path, tmp_path: Path) -> None:
    command = ("evaluate", folder, "--codec", "avif:20,50", "--codec", "jpeg:5,40..41", "--codec", "webp:100", "-o", tmp_path)
    result = photoark(*command, "--anchor", "jpeg")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith((tmp_path / "table.txt").read_text())
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows if len(row) == 7 and row[0] in ("avif", "jpeg", "webp")] == [
        ["avif", "20"], ["avif", "50"], ["jpeg", "5"], ["jpeg", "40"], ["jpeg", "41"], ["webp", "100"],
    ]  # fmt: skip
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert (written["num_photos"], written["anchor"], written["failures"]) == (2, "jpeg", [])
    assert len(written["results"]) == 12
    assert {"photo", "codec", "quality", "num_bytes", "bpp", "scores"} <= set(written["results"][0])
    assert written["bd_rate"]["avif"]["ssimulacra2"]["percent"] < 0
    assert written["bd_rate"]["webp"]["psnr"] == {
        "percent": None, "reason": "fewer than two qualities", "overlap": None,
    }  # fmt: skip
    with Image.open(tmp_path / "rate_distortion.png") as image:
        assert np.asarray(image.convert("L")).std() > 5
    assert ElementTree.parse(tmp_path / "rate_distortion.svg").getroot().tag.endswith("svg")
    with Image.open(tmp_path / "crops.png") as image:
        assert image.width > 4 * 300  # original and three codecs
        assert image.height > 2 * 300


def test_json_is_one_summary_and_failures_are_listed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "sunset.png").write_bytes((folder / "sunset.png").read_bytes())
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    command = ("evaluate", tmp_path / "photos", "--codec", "jpeg:30", "-o", tmp_path / "out", "--crops", 0)
    result = photoark(*command, "--json")
    assert result.returncode == 3, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["event"] for line in lines} == {"progress", "summary"}
    assert lines[-1]["failures"] == [
        {"photo": "notes.txt", "codec": None, "quality": None, "reason": "the file is not an image of a known format"}
    ]
    assert not (tmp_path / "out" / "crops.png").exists()
    (tmp_path / "photos" / "sunset.png").unlink()
    result = photoark(*command)
    assert result.returncode == 2
    assert "evaluation.json, table.txt" in result.stderr and "--overwrite" in result.stderr
    result = photoark(*command, "--overwrite")
    assert result.returncode == 3, result.stderr
    assert "failed: notes.txt: the file is not an image" in result.stderr
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["means"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "gif"], "no codec is called 'gif'"),
        (["--codec", "jpeg:5", "--anchor", "avif"], "--anchor avif"),
        (["--codec", "jpeg:101"], "between 1 and 100"),
        ([], "--codec"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], message: str, folder: Path, tmp_path: Path) -> None:
    result = photoark("evaluate", folder, "-o", tmp_path / "out", *arguments)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_of_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    result = photoark("evaluate", folder, "-o", tmp_path / "out", "--codec", "jpeg:5", "--lpips-weights", folder / "sunset.png")
    assert result.returncode == 1
    assert "cannot be read as a state dict of lpips.LPIPS" in result.stderr
