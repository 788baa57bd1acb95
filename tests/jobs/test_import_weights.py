"""`photoark import-weights` as a person runs it: terms first, errors in one line, nothing written without consent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.errors import CheckpointError
from tests.pipeline.codecs.ditic.released import CONFIG, LoraRelease, merged_state
from tests.support.command_line import photoark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"codec.extra": torch.zeros(1)}, folder / "q1.pt")
    return folder


def test_terms_are_shown_and_nothing_is_written_until_they_are_accepted(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE.txt").write_text("You may look at it.\n")
    out = tmp_path / "out.safetensors"
    result = photoark("import-weights", folder / "q1.pt", "-o", out)
    assert result.returncode == 2
    assert "You may look at it." in result.stdout
    assert "no licence" not in result.stdout
    assert "--accept-licence" in result.stderr
    assert not out.exists()


def test_it_is_said_plainly_when_no_terms_come_with_the_weights(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("# A model of unknown terms\n")
    result = photoark("import-weights", folder, "-o", tmp_path / "out.safetensors", "--json")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "# A model of unknown terms" in result.stderr
    assert "no licence comes with these weights" in result.stderr


def test_accepted_weights_are_imported_with_the_sample_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.cli import app

    # The published sizes would take minutes.
    monkeypatch.setattr(DiTICConfig, "full", classmethod(lambda _: CONFIG))
    torch.save(merged_state(), tmp_path / "q1.pt")
    out = tmp_path / "out.safetensors"
    arguments = ["import-weights", str(tmp_path / "q1.pt"), "-o", str(out), "--accept-licence", "--num-photos", "2"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["num_photos"] == 2
    assert report["fingerprint"] == checkpoint.check(out)
    assert report["provenance"]["source"]["files"][0]["name"] == "q1.pt"
    # Progress goes to standard error, so that the object stays alone on standard output.
    for stage in ("hashing the source: ", "calibrating: 2 of 2 photos", "writing: ", "measuring the rate: 2 of 2 photos"):
        assert stage in result.stderr
    num_bytes = out.stat().st_size
    told = CliRunner().invoke(app, [*arguments, "--float32", "--overwrite"])
    assert f"--codec ditic --weights {out}" in told.stdout
    assert out.stat().st_size > num_bytes


def test_the_average_of_a_lora_checkpoint_is_imported_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.cli import app

    monkeypatch.setattr(DiTICConfig, "full", classmethod(lambda _: CONFIG))
    release = LoraRelease(peft_names=True, adapter_name=True, base_layers=False, tables="empty")
    torch.save({"ema": release.weights}, tmp_path / "lora.pt")
    torch.save(release.elic, tmp_path / "elic.pth")
    arguments = [
        "import-weights", str(tmp_path / "lora.pt"), "-o", str(tmp_path / "out.safetensors"), "--accept-licence",
        "--base", str(release.write_base(tmp_path / "base")), "--elic", str(tmp_path / "elic.pth"), "--num-photos", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, CheckpointError)
    assert "no `model` weights; take `ema` with --use-ema" in str(result.exception)
    result = CliRunner().invoke(app, [*arguments, "--use-ema", "--json"])
    assert result.exit_code == 0, result.output
    provenance = json.loads(result.stdout)["provenance"]
    assert (provenance["layout"], provenance["weights"], provenance["cdf_tables"]) == ("lora", "ema", "computed at import")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["/absent.pt"], 2, "no such file or folder"),
        (["hf:lab/codec"], 2, "names no revision"),
        (["WEIGHTS", "--accept-licence", "--use-ema"], 2, "q1.pt is a merged checkpoint: it needs neither --base nor --elic"),
        (["WEIGHTS", "--file", "q9.pt", "--accept-licence"], 2, "holds no q9.pt"),
        (["WEIGHTS", "--accept-licence"], 1, "the checkpoint lacks"),
        (["WEIGHTS", "--accept-licence", "--calibration", "/absent"], 2, "no such file or folder of training photos"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    arguments: list[str], code: int, message: str, folder: Path, tmp_path: Path
) -> None:
    given = [str(folder) if argument == "WEIGHTS" else argument for argument in arguments]
    result = photoark("import-weights", *given, "-o", tmp_path / "out.safetensors", "--num-photos", 1)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_an_unreachable_hub_is_told(tmp_path: Path) -> None:
    result = photoark(
        "import-weights", "hf:lab/codec@v1", "-o", tmp_path / "x.safetensors",
        HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path),
    )  # fmt: skip
    assert result.returncode == 1
    assert "hf:lab/codec@v1 cannot be fetched" in result.stderr
    assert "Traceback" not in result.stderr
