"""`photoark train` as a person runs it: a short run, and wrong options in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import SettingError

PHOTO = Path(__file__).parents[1] / "photos" / "brushes.jpg"


def test_a_short_run_leaves_a_checkpoint_curves_and_a_sheet(tmp_path: Path) -> None:
    arguments = [
        "train", str(PHOTO), "--out", str(tmp_path), "--size", "tiny", "--steps", "2", "--batch-size", "1",
        "--crop-size", "128", "--loss", "ms-ssim=0", "--loss", "distillation=0.05", "--pseudo-timestep",
        "--log-every", "1", "--sample-every", "2",
        "--rate-weights", "0.1", "--pruned-rate-weights", "0.4", "--pruning-step", "1", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    *lines, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all("distillation" in line and "ms_ssim" not in line for line in lines)
    state = torch.load(last["checkpoint"], weights_only=True)
    assert state["model_config"]["transformer"]["pseudo_timestep"]
    assert state["run"]["rate_weights"] == (0.4,)
    assert (tmp_path / "samples" / "step-000002.png").exists()
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "beauty=1"], "NAME one of mse, ms-ssim, perceptual"),
        (["--loss", "lpips=1"], "LPIPS as a loss needs its weights"),
        (["--size", "full", "--crop-size", "256"], "name them with --base"),
        (["--size", "full", "--base", "absent"], "no such file or folder"),
    ],
)
def test_wrong_options_say_what_to_do(options: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(PHOTO), "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, SettingError)
    assert message in str(result.exception)
