"""What `verify` says of files that are not stored, and when it says that a source may go."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.archive.reader import read_rows
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import CodecAt
from pipeline.encode.read import read_block
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
from pipeline.on_ray.work import split_work
from pipeline.records import encoded_from_table, photos_to_table
from pipeline.sources.folder import list_photos
from tests.pipeline.stages.test_retry_repair import photo

SAFE = "safe to delete the source"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two photos and a file that is a broken photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in {"a.jpg": photo(0), "b.jpg": photo(1), "bad.jpg": photo(2)[:300]}.items():
        (folder / name).write_bytes(data)
    return folder


def archived(source: Path, archive: Path, codec: str = "webp") -> Path:
    worker = EncodeWorker(EncodeSettings(ladder=(CodecAt(codec),)))
    rows, _ = split_work(worker(read_block(photos_to_table(list_photos(str(source))))))
    ArchiveWriter.open_or_create(str(archive)).commit(encoded_from_table(rows))
    return archive


def verified(archive: Path, source: Path | None = None, *options: str) -> tuple[int, str]:
    against = ["--against", str(source)] if source else []
    result = CliRunner().invoke(app, ["verify", str(archive), *against, *options])
    return result.exit_code, result.stdout


def test_what_is_not_stored_is_named_each_time(source: Path, tmp_path: Path) -> None:
    archive = archived(source, tmp_path / "archive")
    code, said = verified(archive)
    assert (code, said.count("\nnot stored: bad.jpg: ")) == (3, 1)
    code, said = verified(archive, source, "--decode")
    assert (code, said.count("\nnot stored: bad.jpg: "), SAFE in said) == (3, 1, False)
    assert "\n2 files the same\n1 file not stored\nkeep the source: " in said
    code, said = verified(archive, source, "--json")
    found = json.loads(said)
    assert (code, [*found["not_stored"]], [*found["against"]["not_stored"]]) == (3, ["bad.jpg"], ["bad.jpg"])
    assert (found["against"]["num_same"], found["against"]["missing"], found["against"]["changed"]) == (2, [], [])
    (source / "bad.jpg").unlink()
    code, said = verified(archive, source, "--decode", "--exclude", "bad.*")  # it may be there
    assert (code, SAFE in said) == (3, False)
    code, said = verified(archive, source, "--decode")
    assert (code, "\ngone: bad.jpg: " in said, "not stored" in said, SAFE in said) == (0, True, False, True)
    assert verified(archive)[0] == 3  # without the source there is no telling
    ArchiveWriter.open(str(archive)).drop_failures(["bad.jpg", "a.jpg", "nowhere"])
    assert verified(archive)[0] == 0


def test_a_source_may_go_when_all_of_it_is_stored_and_decodes(source: Path, tmp_path: Path) -> None:
    (source / "bad.jpg").unlink()
    archive = archived(source, tmp_path / "archive")
    code, said = verified(archive, source)
    assert (code, said.endswith("\nevery file is stored; add --decode to prove that each decodes\n")) == (0, True)
    assert verified(archive, source, "--sample", "0%")[1] == said
    code, said = verified(archive, source, "--decode")
    assert (code, said.splitlines()[-1]) == (0, f"{SAFE}: each of 2 files is stored and decodes")
    (source / "Thumbs.db").write_bytes(b"thumbnails")
    code, said = verified(archive, source, "--decode")
    assert (code, said.splitlines()[-1]) == (
        0,
        f"{SAFE}: each of 2 files is stored and decodes; 1 excluded by default is not stored",
    )
    os.utime(source / "a.jpg", (1, 1))
    assert verified(archive, source, "--decode")[1].endswith(
        "\nkeep the source: not every file of it is stored, sound and unchanged\n"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert SAFE not in verified(archive, empty, "--decode")[1]


def test_a_source_that_holds_its_archive_stays(source: Path) -> None:
    (source / "bad.jpg").unlink()
    code, said = verified(archived(source, source / "archive"), source, "--decode")
    assert (code, said.splitlines()[-1]) == (0, "keep the source: an archive lies inside it")


def test_detail_that_a_model_made_is_told_before_a_source_may_go(source: Path, tmp_path: Path) -> None:
    (source / "bad.jpg").unlink()
    code, said = verified(archived(source, tmp_path / "archive", "ditic-small"), source, "--decode")
    assert code == 0
    assert said.splitlines()[-1].startswith(f"{SAFE}, if synthesised detail will do for 2 photos of a generative codec: ")


def test_shards_that_a_retry_or_a_recode_replaced_are_no_cause_for_alarm(source: Path, tmp_path: Path) -> None:
    archive = ArchiveWriter.open(str(archived(source, tmp_path / "archive")))
    (row,) = (row for row in read_rows(archive) if row.key == "a.jpg")
    archive.put([replace(row, reason="encoded again")])
    _, said = verified(Path(archive.storage.url))
    assert "\nno damage\n1 shard is no longer in use, " in said
    assert " kB; photoark vacuum deletes what has been unused for a week\n" in said
    assert "orphan" not in said
    assert ".parquet" not in said
    (tmp_path / "archive" / "mine.txt").write_bytes(b"mine")
    assert (
        "\n1 other file in the folder, 4 bytes\nno part of the archive: mine.txt: 4 bytes\n"
        in verified(Path(archive.storage.url))[1]
    )
