"""What holds of the project as a whole: who imports whom, what a light command loads, what the package ships."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline.archive.commit import Archive
from pipeline.records import EncodedPhoto, Outcome

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEAVY = {"torch", "ray", "numba", "diffusers", "transformers", "compressai"}


def test_import_rules_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_broken_import_rule_is_seen(tmp_path: Path) -> None:
    for package in ("pipeline", "jobs", "cluster"):
        for module in (ROOT / package).rglob("*.py"):
            copy = tmp_path / module.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(module.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / "pipeline" / "sources" / "wrong.py").write_text("import torch\n")
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache", "--contract", "torch"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "pipeline.sources.wrong" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["encode", "--help"], ["restore", "--help"], ["serve", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert not _modules_loaded_by(arguments) & (HEAVY | {"numpy", "pandas", "pyarrow", "deltalake", "boto3", "fastapi"})


@pytest.mark.parametrize("command", ["ls", "stat", "verify"])
def test_reading_the_table_loads_neither_torch_nor_ray(command: str, tmp_path: Path) -> None:
    Archive.open_or_create(str(tmp_path)).commit(
        [
            EncodedPhoto(
                key="a.jpg",
                image=b"bytes of a photo",
                codec="original",
                model=None,
                outcome=Outcome.KEPT,
                source_uri="/photos/a.jpg",
                source_bytes=16,
            )
        ]
    )
    assert not _modules_loaded_by([command, str(tmp_path)]) & HEAVY


def test_lock_satisfies_the_project() -> None:
    locked: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        pin = Requirement(line)
        assert not pin.extras, f"pip refuses extras in constraints: {line}"
        assert pin.url is None
        locked.setdefault(pin.name.lower().replace("_", "-"), []).append(next(iter(pin.specifier)).version)
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        versions = locked[wanted.name.lower().replace("_", "-")]
        assert all(wanted.specifier.contains(version) for version in versions), f"{line}: locked {versions}"


def test_installed_command_is_this_project() -> None:
    assert metadata.version("photoark") == PROJECT["version"]
    scripts = metadata.entry_points(group="console_scripts", name="photoark")
    assert {script.value for script in scripts} == {"jobs.cli:main"}


def _modules_loaded_by(arguments: list[str]) -> set[str]:
    """Top-level modules in memory after the command line ran in a process of its own."""
    code = f"""
import json, sys
sys.argv = ["photoark", *{arguments!r}]
from jobs.cli import main
try:
    main()
except SystemExit as leaving:
    assert not leaving.code, leaving.code
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))
