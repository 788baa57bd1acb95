"""`photoark demo`, through the command line as `make demo` runs it, with a codec that needs no weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.command_line import photoark

PHOTOS = Path(__file__).parents[1] / "photos"


def test_demo_shows_every_photo_and_a_contact_sheet(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("brushes.jpg", "sunset.png", "LICENSES.md"):
        shutil.copy2(PHOTOS / name, photos)
    before = {path.name: path.read_bytes() for path in photos.iterdir()}

    command = [str(Path(sys.executable).with_name("photoark")), "demo", "--photos", str(photos), "--out", str(out)]
    result = subprocess.run([*command, "--codec", "avif", "--quality", "60"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert {"brushes.jpg", "sunset.png"} <= set(rows)
    assert "LICENSES.md" not in rows
    for name, size in (("brushes.jpg", "515x900"), ("sunset.png", "500x333")):
        _, pixels, bytes_before, bytes_after, bpp, psnr, ms_ssim = rows[name]
        assert pixels == size
        assert int(bytes_before.replace(",", "")) == len(before[name])
        assert 0 < int(bytes_after.replace(",", "")) < len(before[name])
        assert 0.05 < float(bpp) < 4
        assert 28 < float(psnr) < 60
        assert 0.9 < float(ms_ssim) <= 1
    sheet = out / "contact_sheet.jpg"
    assert str(sheet) in result.stdout
    with Image.open(sheet) as image:
        assert image.height > 2 * 300
        assert np.asarray(image).std() > 20
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_demo_without_photos_says_what_to_do(tmp_path: Path) -> None:
    result = photoark("demo", "--photos", tmp_path, "--out", tmp_path / "out", "--codec", "avif")
    assert result.returncode == 2
    assert "--photos" in result.stderr


def test_demo_deletes_nothing_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes((PHOTOS / "brushes.jpg").read_bytes())
    result = photoark("demo", "--out", tmp_path, "--codec", "avif")
    assert result.returncode == 2
    assert "name another --out" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "mine.jpg"]
