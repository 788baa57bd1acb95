"""An archive whose log is gone: its shards alone give the photos back, in a new one."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.care.optimize import optimize
from pipeline.archive.care.salvage import salvage
from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import verify
from pipeline.archive.reader import find
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError, ArchiveError, ArchiveNotFoundError, SettingError
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.base import Storage
from tests.pipeline.archive.test_archive import row
from tests.pipeline.archive.test_references import made_of, same
from tests.support.command_line import photoark


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveWriter:
    """Rows that were replaced, failed, shared, inherited and merged; the shards they were in are still there."""
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit([made_of("a", b"1"), made_of("b", b"2"), row("f", outcome=Outcome.FAILED)])
    archive.commit([row("g", outcome=Outcome.FAILED), made_of("h", b"3")])
    archive.refer([same("c", "a", b"1"), same("d", "a", b"1"), same("e", "b", b"2")])
    archive.put([made_of("a", b"4")])  # c inherits, d refers to c
    archive.put([made_of("g", b"5")])
    archive.commit([row("k"), row("l")])
    optimize(archive)
    archive.put([replace(row("l"), reason="encoded again")])
    return archive


def content(url: str) -> dict[str, EncodedPhoto]:
    """Every row, with the stream that it shares; which row it shares that with is the archive's business."""
    archive = ArchiveWriter.open(url)
    return {key: replace(find(archive, key), same_as=None) for key in archive.keys()}  # noqa: SIM118 - no dict


def lose_log(archive: ArchiveWriter) -> Path:
    folder = Path(archive.storage.url)
    shutil.rmtree(folder / "_delta_log")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_shards_alone_give_every_photo_back(archive: ArchiveWriter, tmp_path: Path) -> None:
    before = content(archive.storage.url)
    folder, new = lose_log(archive), str(tmp_path / "new")
    files = digests(folder)
    report = salvage(Storage(folder), new)
    assert (report.num_rows, report.is_complete) == (10, True)
    assert report.num_shards == len(files) > 4
    assert report.num_superseded > 5
    assert content(new) == before
    assert verify(ArchiveWriter.open(new)).is_clean
    assert digests(folder) == files
    # Again, as after it was interrupted: nothing comes twice.
    assert salvage(Storage(folder), new).num_rows == 10
    assert content(new) == before


def test_after_a_vacuum_too(archive: ArchiveWriter, tmp_path: Path) -> None:
    before = content(archive.storage.url)
    assert vacuum(archive, retention_hours=0).paths
    report = salvage(Storage(lose_log(archive)), str(tmp_path / "new"))
    assert (report.is_complete, report.num_superseded) == (True, 0)
    assert content(str(tmp_path / "new")) == before


def test_nobody_begins_a_new_log_over_shards(archive: ArchiveWriter, tmp_path: Path) -> None:
    folder = lose_log(archive)
    with pytest.raises(ArchiveDamagedError, match="photoark salvage"):
        ArchiveWriter.open_or_create(str(folder))
    assert not (folder / "_delta_log").exists()
    verified = photoark("verify", folder, "--json")
    (damage,) = json.loads(verified.stdout)["damages"]
    assert (verified.returncode, damage["kind"], damage["keys"]) == (4, "log", list("abcdefghkl"))
    assert "photoark salvage" in damage["what"]
    (tmp_path / "link").symlink_to(folder)
    for folder_again in (folder, tmp_path / "link"):
        with pytest.raises(SettingError, match="elsewhere"):
            salvage(Storage(folder), str(folder_again))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveNotFoundError, match="no shards"):
        salvage(Storage(tmp_path / "empty"), str(tmp_path / "new"))


def test_a_stream_whose_heir_is_gone_comes_from_the_row_that_was_replaced(tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit([first := made_of("a", b"1")])
    (with_stream,) = archive.shards()
    archive.refer([same("b", "a", b"1"), same("c", "a", b"1")])
    archive.put([made_of("a", b"2")])
    (with_heir,) = (shard for shard in archive.shards() if shard.least_key == "b")
    folder = lose_log(archive)
    (folder / with_heir.path).unlink()
    report = salvage(archive.storage, str(tmp_path / "new"))
    assert (report.num_rows, report.lost) == (3, ())
    rows = content(str(tmp_path / "new"))
    assert [rows[key].image for key in "bc"] == [first.image] * 2
    assert (rows["a"].image != first.image, rows["b"].source_uri) == (True, "/photos/b")
    assert verify(ArchiveWriter.open(str(tmp_path / "new"))).is_clean
    (folder / with_stream.path).unlink()
    report = salvage(archive.storage, str(tmp_path / "second"))
    assert (report.num_rows, report.lost, report.is_complete) == (1, ("b", "c"), False)


def test_damage_is_named_and_costs_its_own_rows(archive: ArchiveWriter, tmp_path: Path) -> None:
    archive.commit([row("m")])
    before = content(archive.storage.url)
    (hurt,) = (shard for shard in archive.shards() if shard.least_key == "m")
    folder, new = lose_log(archive), str(tmp_path / "new")
    data = bytearray((folder / hurt.path).read_bytes())
    data[100] ^= 1
    (folder / hurt.path).write_bytes(data)
    run = photoark("salvage", folder, new, "--json")
    assert run.returncode == 4, run.stderr
    report = json.loads(run.stdout)
    assert [path for path, _ in report["damaged"]] == [hurt.path]
    assert content(new) == {key: found for key, found in before.items() if key != "m"}


def test_rows_without_a_file_are_told_by_the_exit_code(archive: ArchiveWriter, tmp_path: Path) -> None:
    folder = lose_log(archive)
    result = photoark("salvage", folder, tmp_path / "new")
    assert result.returncode == 3, result.stderr
    assert "1 of the rows failed: its file is not stored\n" in result.stdout
    whole = ArchiveWriter.open_or_create(str(tmp_path / "whole"))
    whole.commit([row("a"), row("b")])
    assert photoark("salvage", lose_log(whole), tmp_path / "other").returncode == 0


def test_a_log_that_cannot_be_opened_is_no_hindrance(archive: ArchiveWriter, tmp_path: Path) -> None:
    before = content(archive.storage.url)
    Path(archive.storage.url, "_delta_log", f"{0:020d}.json").write_text("{")
    with pytest.raises(ArchiveError):
        ArchiveWriter.open(archive.storage.url)
    assert salvage(archive.storage, str(tmp_path / "new")).is_complete
    assert content(str(tmp_path / "new")) == before


@pytest.mark.s3
def test_on_s3(s3_url: str) -> None:
    archive = ArchiveWriter.open_or_create(f"{s3_url}/archive")
    archive.commit([made_of("a", b"1"), row("b")])
    archive.put([row("b")])
    before = content(archive.storage.url)
    for file in list(Storage(f"{s3_url}/archive/_delta_log").list()):
        archive.storage.delete(f"_delta_log/{file.path}")
    with pytest.raises(ArchiveDamagedError, match="photoark salvage"):
        ArchiveWriter.open_or_create(archive.storage.url)
    assert salvage(archive.storage, f"{s3_url}/new").is_complete
    assert content(f"{s3_url}/new") == before
