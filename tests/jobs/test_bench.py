"""The benchmarks run and their last line can be read by a program; what they find is not for a test to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image


def test_the_codec_is_measured_by_stage_beside_the_plain_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "bench", "codec", "--size", "tiny", "--resolutions", "128,256", "--seconds", "0.1"]
    result = subprocess.run([*command, "--out", str(tmp_path / "bench.json")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "bench.json").read_text())
    large = found["ours"]["sides"]["256"]
    assert set(large["stages_ms"]["encode"]) == {"autoencoder", "latent_codec", "entropy"}
    assert set(large["stages_ms"]["decode"]) == {"entropy", "latent_codec", "diffusion", "autoencoder"}
    for direction in ("encode", "decode"):
        rooflines = [found["roofline"][side][direction]["flops"] for side in ("128", "256")]
        assert rooflines[1] > 3.5 * rooflines[0] > 0
        assert large[direction]["images_per_s"] > 0
        assert large[direction]["peak_bytes"] > 1 << 20
        ratio = large[direction]["images_per_s"] / found["plain"]["sides"]["256"][direction]["images_per_s"]
        assert found["ratio"]["256"][direction] == round(ratio, 2)
    assert found["ours"]["mixed"]["num_photos"] == 24
    assert found["max_abs_error_and_psnr_to_plain"]["256"][1] > 30


def test_a_photo_in_little_memory_is_measured() -> None:
    command = [sys.executable, "-m", "jobs", "bench", "memory", "--size", "tiny", "--megapixels", "6", "--memory", "0.2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["tile"]
    assert found["encode_s"] > 0 < found["decode_s"]
    assert found["stream_bytes"] > 0


def test_a_server_is_measured_beside_restore() -> None:
    command = [sys.executable, "-m", "jobs", "bench", "serve", "--codec", "webp", "--requests", "8", "--clients", "1,4"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert 0 < found["restore"]["p50_s"] <= found["restore"]["p95_s"] < found["restore"]["from_cold_s"]
    assert set(found["clients"]) == {"1", "4"}
    for each in found["clients"].values():
        assert 0 < each["p50_s"] <= each["p95_s"]
        assert each["requests_per_s"] > 0


def test_a_size_that_is_none_is_wrong_usage() -> None:
    command = [sys.executable, "-m", "jobs", "bench", "codec", "--size", "huge"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "choose one of small, full, tiny" in result.stderr


def test_whole_commands_are_timed_alone_and_beside_a_busy_core(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.effect_noise((200 + i, 180), 50).convert("RGB").save(tmp_path / "photos" / f"{i}.jpg")
    photos = ("--photos", str(tmp_path / "photos"))
    command = [sys.executable, "-m", "jobs", "bench", "commands", *photos, "--codec", "webp", "--repeat", "1"]
    result = subprocess.run([*command, "--out", str(tmp_path / "bench.json")], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "bench.json").read_text())
    names = [(one["command"], one["busy_cores"]) for one in found["commands"]]
    assert len(set(names)) == len(names) == 8
    assert all(one["wall_s"] > 0 < one["cpu_s"] for one in found["commands"])
