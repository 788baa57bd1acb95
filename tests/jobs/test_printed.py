"""What a command prints of an archive takes one line each and cannot control a terminal, whatever the keys are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.writer import ArchiveWriter
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.names import from_printable, printable
from tests.hostile.test_keys import kept
from tests.support.command_line import photoark

PRINTED = {
    "new\nline.txt": "new␛{0a}line.txt",
    "red\x1b[31m.txt": "red␛{1b}[31m.txt",
    "title\x1b]0;owned\x07": "title␛{1b}]0;owned␛{07}",
    "csi\x9b31m": "csi␛{9b}31m",
    "over\rwritten\b": "over␛{0d}written␛{08}",
    "\u202egpj.exe": "␛{202e}gpj.exe",
    "two\u2028lines": "two␛{2028}lines",
    "␛{0a}": "␛{241b}{0a}",
    "b␛ff.png": "b␛ff.png",
    "9.41.00\u202fAM é 漢 \U0001f469\u200d\U0001f680.png": "9.41.00\u202fAM é 漢 \U0001f469\u200d\U0001f680.png",
    "[bold]x[/bold]": "[bold]x[/bold]",
}


def failed(key: str) -> EncodedPhoto:
    return EncodedPhoto(
        key=key, image=None, codec=None, model=None, outcome=Outcome.FAILED, reason="bad \x1b[2J name", source_uri="/x",
        source_bytes=0,
    )  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit([kept(key) for key in PRINTED])
    return tmp_path / "archive"


def test_ls_prints_each_key_in_one_line_that_restore_takes(archive: Path, tmp_path: Path) -> None:
    lines = photoark("ls", archive).stdout.splitlines()
    assert sorted(lines) == sorted(PRINTED.values())
    for i, line in enumerate(lines):
        result = photoark("restore", archive, line, "-o", tmp_path / f"{i}")
        assert result.returncode == 0, result.stderr
    assert len(photoark("ls", archive, "-l").stdout.splitlines()) == len(PRINTED)


def test_no_message_holds_a_control_character(archive: Path, tmp_path: Path) -> None:
    ArchiveWriter.open(str(archive)).commit([failed("bad\x1b[2J\n.jpg")])
    (archive / "left\x1b[2J.txt").write_bytes(b"")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "missing\x1b[2J.jpg").write_bytes(b"")
    shard = ArchiveWriter.open(str(archive)).shards()[0].path
    said = [
        photoark("verify", archive, "--against", tmp_path / "src"),
        photoark("ls", archive, "--long"),
        photoark("retry", tmp_path / "src", archive, "--dry-run"),
        photoark("restore", archive, "bad\x1b[2J\n.jpg"),
        photoark("restore", archive, "none\x1b[2J"),
        photoark("salvage", archive, tmp_path / "new"),
    ]
    (archive / shard).write_bytes(b"PAR1")
    said.append(photoark("verify", archive))
    for result in said:
        text = result.stdout + result.stderr
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", text), (result.args, text)
    assert "bad␛{1b}[2J␛{0a}.jpg: bad ␛{1b}[2J name" in said[0].stdout


@given(st.text(st.sampled_from("␛{}09afx\n\x1b\u202eé") | st.characters()))
def test_the_printed_form_is_one_to_one(text: str) -> None:
    assert from_printable(printable(text)) == text
    assert len(printable(text).splitlines()) <= 1


def test_what_was_never_printed_is_taken_as_it_is() -> None:
    for text in ("␛{41}", "␛{ffffff}", "␛{a}", "␛{0A}", "␛{}", "\\x1b", "%1b"):
        assert from_printable(text) == text
