"""An archive is at the path that was named, or the path is refused before anything is written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.care.optimize import optimize
from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import verify
from pipeline.archive.writer import ArchiveWriter
from pipeline.decode.restore import restore
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.errors import SettingError
from pipeline.storage.base import Storage
from tests.cases.tiny import kept, png

WORKS = (
    "a b", "a#b", "a?b", "pct%", "100% sure", "%zz", "ü", "e\u0301", "漢字", "a'b", 'a"b', "*", "[x]", "{x}", "~", "a:b", "s3:",
    "file:", "a=b", "a&b", "a;b", "a+b", "<x>", "a|b", "^`", " both ", "...", "-o", "␛ff", "\U0001f600",
)  # fmt: skip
REFUSED = ("pct%41b", "My%20Photos", "%2F", "%2e%2e", "back\\slash", "new\nline", "tab\t", "a\x7fb", os.fsdecode(b"raw\xff"))


def tree(folder: Path) -> set[str]:
    return {os.fsencode(path).decode("utf-8", "backslashreplace") for path in folder.rglob("*")}


@pytest.mark.parametrize("name", WORKS)
def test_an_archive_is_where_it_was_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive = f"{name}/arc/"
    ArchiveWriter.open_or_create(archive).commit([kept("a.png", png(1))])
    ArchiveWriter.open(archive).commit([kept("b.png", png(2))])
    assert os.listdir(tmp_path) == [name]
    assert sorted(os.listdir(tmp_path / name / "arc"))[0] == "_delta_log"
    optimize(ArchiveWriter.open(str(tmp_path / name / "arc")))
    assert len(vacuum(ArchiveWriter.open(archive), retention_hours=0).paths) == 2
    assert verify(ArchiveWriter.open(archive)).is_clean
    assert restore(archive, "a.png").data == png(1)


@pytest.mark.parametrize("name", REFUSED)
def test_a_path_that_would_be_another_is_refused(name: str, tmp_path: Path) -> None:
    for folder in ("pctAb", "My Photos", name):
        (tmp_path / folder).mkdir(exist_ok=True)
    ArchiveWriter.open_or_create(str(tmp_path / "pctAb" / "arc")).commit([kept("a.png", png(1))])
    before = tree(tmp_path)
    (tmp_path / "link").symlink_to(name)
    for path in (tmp_path / name / "arc", tmp_path / "link" / "arc"):
        for way in (ArchiveWriter.open_or_create, ArchiveWriter.open):
            with pytest.raises(SettingError, match="an archive cannot be at"):
                way(str(path))
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before


def test_links_and_dots_lead_where_the_system_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far" / "inside").mkdir(parents=True)
    (tmp_path / "odd%41").symlink_to("far/inside")
    ArchiveWriter.open_or_create("odd%41/../arc").commit([kept("a.png", png(1))])
    ArchiveWriter.open_or_create("odd%41").commit([kept("b.png", png(2))])
    assert restore(str(tmp_path / "far" / "arc"), "a.png").data == png(1)
    assert restore(str(tmp_path / "far" / "inside"), "b.png").data == png(2)
    assert sorted(os.listdir(tmp_path)) == ["far", "odd%41"]


@pytest.mark.s3
def test_an_archive_in_a_bucket_is_where_it_was_named(s3_url: str) -> None:
    for name in ("a b", "a#b", "a?b", "pct%", "ü", "back\\slash", "a+b&c", "arc/"):
        archive = f"{s3_url}/{name}"
        ArchiveWriter.open_or_create(archive).commit([kept("a.png", png(1))])
        assert verify(ArchiveWriter.open(archive)).is_clean
        assert {f.path.split("/")[0][:7] for f in Storage(archive).list()} == {"_delta_", "photos-"}
    before = [f.path for f in Storage(s3_url).list()]
    for name in ("p%41q", "a%20b", "p//q", "/p", "p//", "p/../q", "./p", "new\nline"):
        with pytest.raises(SettingError, match="an archive cannot be at"):
            ArchiveWriter.open_or_create(f"{s3_url}/{name}")
    assert [f.path for f in Storage(s3_url).list()] == before


@pytest.mark.usefixtures("ray_session")
def test_a_job_writes_nothing_where_it_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.png").write_bytes(png(1))
    job = EncodeJob(source=str(source), archive=f"file://{tmp_path}/a%20b%25/arc", codec="webp")
    assert encode(job).num_encoded == 1
    assert restore(str(tmp_path / "a b%" / "arc"), "a.png").row.codec == "webp"
    with pytest.raises(SettingError, match="an archive cannot be at"):
        encode(replace(job, archive=str(tmp_path / "pct%41b" / "arc")))
    assert sorted(os.listdir(tmp_path)) == ["a b%", "src"]
