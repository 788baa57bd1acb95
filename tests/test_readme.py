"""The README and the pages that it names hold only what exists: make targets, commands with their options, files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.core import TyperGroup

from jobs.cli import app

ROOT = Path(__file__).parents[1]
PHOTOARK = Path(sys.executable).with_name("photoark")
README = (ROOT / "README.md").read_text()
PAGES = [README] + [
    (ROOT / page).read_text()
    for page in ("jobs/README.md", "pipeline/README.md", "pipeline/serving/README.md", "CONTRIBUTING.md")
]
# What is code, in fences and in spans: a line of prose may begin with the verb "make".
FENCES = [fence for page in PAGES for fence in re.findall(r"^```.*?^```", page, re.MULTILINE | re.DOTALL)]
SPANS = [
    span for page in PAGES for span in re.findall(r"`[^`]*`", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))
]
COMMANDS = sorted(
    {line.partition("#")[0].strip() for fence in FENCES for line in fence.splitlines() if line.startswith("photoark ")}
)
TARGETS = sorted(set(re.findall(r"^`?make ([a-z]+)\b", "\n".join([*FENCES, *SPANS]), re.MULTILINE)))
PATHS = sorted(set(re.findall(r"`((?:\w[\w.-]*/)*\w[\w.-]*\.(?:md|toml|py|lock)|LICENSE|tests/\w+)`", README)))


def test_readme_names_what_these_tests_look_for() -> None:
    assert {"demo", "test"} <= set(TARGETS)
    assert {"CONTRIBUTING.md", "LICENSE", "tests/photos"} <= set(PATHS)
    assert {command.split()[1] for command in COMMANDS} >= {"encode", "decode", "restore", "verify", "ls", "stat"}


@pytest.mark.parametrize("target", TARGETS)
def test_make_target_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("path", PATHS)
def test_path_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_and_its_options_exist(command: str) -> None:
    name, *arguments = shlex.split(command)[1:]
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    known = {option for parameter in group.commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {argument for argument in arguments if re.match(r"--?\w", argument)} <= known


def test_help_names_every_command() -> None:
    result = subprocess.run([PHOTOARK, "--help"], capture_output=True, text=True, env={"COLUMNS": "200"}, check=True)
    assert {command.split()[1] for command in COMMANDS} <= set(re.findall(r"[\w-]+", result.stdout))


@pytest.mark.usefixtures("ray_session")
def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    Image.new("RGB", (64, 48), (90, 120, 60)).save(tmp_path / "photos/2024/a.jpg")
    monkeypatch.chdir(tmp_path)
    # tests/test_readers.py runs those that name an ARCHIVE.
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "ARCHIVE" not in b)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["pixels"].shape == (48, 64, 3)
    assert names["table"]["key"].to_pylist() == ["2024/a.jpg"]
    with Image.open(tmp_path / "restored/2024/a.jpg") as restored:
        assert restored.size == (64, 48)


def test_exit_codes_are_all_told() -> None:
    page = (ROOT / "jobs/README.md").read_text()
    assert re.findall(r"^\| (\d+) \|", page, re.MULTILINE) == ["0", "1", "2", "3", "4", "12", "130", "143"]
