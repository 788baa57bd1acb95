"""The image: what linters say of its recipe, what goes into it, and what a job's exit code becomes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.archive.writer import ArchiveWriter
from pipeline.records import EncodedPhoto, Outcome

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "container" / "Dockerfile"
JOB = ROOT / "infra" / "container" / "photoark-job"
BIN = Path(sys.executable).parent
SCRIPTS = [JOB, ROOT / ".ci" / "run", *sorted((ROOT / "infra").rglob("*.sh"))]
INSTRUCTIONS = [line for line in DOCKERFILE.read_text().replace("\\\n", " ").splitlines() if line and line[0] != "#"]


def test_hadolint_has_nothing_to_say() -> None:
    result = subprocess.run([BIN / "hadolint", DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    result = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert os.access(script, os.X_OK)


def test_base_is_pinned_by_digest_and_the_user_is_not_root() -> None:
    image = next(line for line in INSTRUCTIONS if line.startswith("ARG PYTHON_IMAGE="))
    assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image)
    assert {line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM ")} == {"${PYTHON_IMAGE}"}
    users = [line.split()[1] for line in INSTRUCTIONS if line.startswith("USER ")]
    assert users
    assert int(users[-1]) > 0, "a number, or Kubernetes cannot tell that it is not root"
    assert "PIP_CONSTRAINT=/src/requirements.lock" in " ".join(INSTRUCTIONS)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {
        source
        for line in INSTRUCTIONS
        if line.startswith("COPY ") and "--from=" not in line
        for source in [word for word in shlex.split(line)[1:] if not word.startswith("--")][:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize(("code", "becomes"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (12, 0), (130, 130)])
def test_what_is_not_to_be_tried_again_becomes_done(code: int, becomes: int, tmp_path: Path) -> None:
    program = tmp_path / "photoark"
    program.write_text(f'#!/bin/sh\necho "$#:$2"\nexit {code}\n')
    program.chmod(0o755)
    result = _job(["encode", "a b", "c"], path=tmp_path)
    assert (result.returncode, result.stdout) == (becomes, "3:a b\n")
    assert (f"(exit code {code})" in result.stderr) == (code != becomes)


def test_the_real_command_through_it(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "new.jpg").write_bytes(b"not in the archive")
    photo = EncodedPhoto(
        key="gone.jpg", image=b"1", codec="original", model=None, outcome=Outcome.KEPT, source_uri="/gone.jpg", source_bytes=1
    )
    ArchiveWriter.open_or_create(str(tmp_path / "archive")).commit([photo])
    result = _job(["verify", str(tmp_path / "archive"), "--against", str(tmp_path / "photos")], path=BIN)
    assert result.returncode == 0, result.stderr
    assert "(exit code 3)" in result.stderr
    assert "new.jpg" in result.stdout + result.stderr


def _job(arguments: list[str], *, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run([JOB, *arguments], env=environment, capture_output=True, text=True, check=False)
