"""Files that commands write for a person: checked before the work, of the format that they are named for, replacing nothing."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cluster.watch import Watch
from jobs.cli import app
from jobs.outputs import check_report
from jobs.report import write_report
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.registry import get_codec
from pipeline.encode.history import History
from pipeline.errors import SettingError
from pipeline.job_summary import JobSummary
from pipeline.pixels.formats.reader import read_pixels
from pipeline.records import Outcome
from tests.cases.tiny import kept, png


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An encoded PNG, an encoded JPEG under a PNG's name, a photo and a film that were kept, keys that no file can have."""
    url = str(tmp_path_factory.mktemp("outputs") / "archive")
    (stream,) = get_codec("webp").encode([read_pixels(png(1))])
    encoded = replace(kept("dir/a.png", stream), outcome=Outcome.ENCODED, codec="webp", reason=None)
    ArchiveWriter.open_or_create(url).commit(
        [
            encoded,
            replace(encoded, key="really a jpeg.png", format="JPEG"),
            replace(kept("kept.png", png(2)), reason="16-bit"),
            replace(kept("film.mov", b"a film"), format=None, width=None, height=None, mode=None),
            kept("b␛ff.png", png(3)),
            kept("../up.png", png(4)),
        ]
    )
    return url


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def refused(message: str, *arguments: object) -> None:
    """A command that ends with exit code 2 and one line."""
    with pytest.raises(SettingError, match=message) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)


def format_of(path: str | Path) -> str | None:
    with Image.open(path) as image:
        return image.format


@pytest.mark.parametrize(
    ("options", "name", "format"),
    [
        ((), "a.png", "PNG"),
        (("-o", "x.png"), "x.png", "PNG"),
        (("-o", "x.JPG"), "x.JPG", "JPEG"),
        (("-o", "x.webp"), "x.webp", "WEBP"),
        (("-o", "x.tiff"), "x.tiff", "TIFF"),
        (("-o", "x.avif"), "x.avif", "AVIF"),
        (("-o", "no_suffix"), "no_suffix", "PNG"),
        (("-o", "no_suffix", "--format", "webp"), "no_suffix", "WEBP"),
        (("-o", "x.out", "--format", "jpeg"), "x.out", "JPEG"),
        (("-o", "x.jpeg", "--format", "jpeg"), "x.jpeg", "JPEG"),
        (("--format", "jpeg"), "a.jpg", "JPEG"),
    ],
)
def test_the_suffix_chooses_the_format(options: tuple[str, ...], name: str, format: str, archive: str, here: Path) -> None:
    run("restore", archive, "dir/a.png", *options)
    assert [path.name for path in here.iterdir()] == [name]
    assert format_of(here / name) == format


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        ("dir/a.png", ("-o", "x.foo"), r"\.foo is the suffix of no known format"),
        ("dir/a.png", ("-o", "x.gif"), "files of format GIF cannot be written"),
        ("dir/a.png", ("-o", "x.png", "--format", "WEBP"), "another format than --format WEBP"),
        ("dir/a.png", ("--format", "gif"), "--format GIF: choose one of"),
        ("dir/a.png", ("-o", "nodir/x.png"), "there is no folder nodir"),
        ("dir/a.png", ("-o", "."), "is a folder"),
        ("dir/a.png", ("-o", "s3://bucket/x.png"), "is a URL"),
        ("dir/a.png", ("-o", "x" * 300 + ".png"), "File name too long"),
        ("kept.png", ("-o", "x.jpg"), r"kept.png is a PNG file, and its own bytes are stored: 16-bit; name the output \*\.png"),
        ("kept.png", ("--format", "JPEG"), "its own bytes are stored"),
        ("kept.png", ("-o", "x.jpg", "--original"), "--original restores its own bytes"),
        ("film.mov", ("-o", "x.png"), "a file of no known format"),
        ("film.mov", ("-o", "x.mp4"), r"\.mp4 is the suffix of no known format"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    key: str, options: tuple[str, ...], message: str, archive: str, here: Path
) -> None:
    refused(message, "restore", archive, key, *options)
    assert not list(here.iterdir())


def test_kept_files_come_as_they_are(archive: str, here: Path) -> None:
    run("restore", archive, "film.mov", "-o", "x.MOV")
    run("restore", archive, "kept.png", "-o", "y.png", "--original")
    run("restore", archive, "really a jpeg.png")
    run("restore", archive, "really a jpeg.png", "-o", "z.png")
    assert (here / "x.MOV").read_bytes() == b"a film"
    assert (here / "y.png").read_bytes() == png(2)
    assert (format_of("really a jpeg.png"), format_of("z.png")) == ("JPEG", "PNG")


def test_names_are_those_that_a_decode_would_give(archive: str, here: Path) -> None:
    run("restore", archive, os.fsdecode(b"b\xff.png"))
    run("restore", archive, "../up.png")
    assert {os.fsencode(name) for name in os.listdir(here)} == {b"b\xff.png", b"up.png"}


def test_nothing_is_replaced_unless_asked_for(archive: str, here: Path) -> None:
    (here / "a.png").write_bytes(b"original")
    (here / "link.png").symlink_to("nowhere.png")
    for options in ((), ("-o", "a.png"), ("-o", "./a.png"), ("-o", "link.png")):
        refused("is there already: replace it with --overwrite", "restore", archive, "dir/a.png", *options)
    assert (here / "a.png").read_bytes() == b"original"
    run("restore", archive, "dir/a.png", "--overwrite")
    assert format_of("a.png") == "PNG"
    run("restore", archive, "dir/a.png", "--overwrite", "-o", "link.png")
    assert sorted(os.listdir(here)) == ["a.png", "link.png"]
    refused("would lie in the archive", "restore", archive, "dir/a.png", "-o", f"{archive}/x.png")
    refused("would lie in the archive", "restore", archive, "dir/a.png", "-o", f"{archive}/_delta_log/x.png", "--overwrite")


def test_a_pipe_takes_a_photo(archive: str, here: Path) -> None:
    os.mkfifo(here / "pipe.png")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((here / "pipe.png").read_bytes()))
    reader.start()
    run("restore", archive, "kept.png", "-o", "pipe.png")
    reader.join()
    assert read == [png(2)]


@pytest.mark.parametrize(
    "command",
    [
        ("freeze", "absent.pt", "-o", "there.safetensors", "--calibration", "."),
        ("import-weights", "absent.pt", "-o", "there.safetensors"),
        ("evaluate", "photos", "--codec", "jpeg:5", "-o", "."),
        ("bench", "codec", "--out", "there.safetensors"),
        ("bench", "flat", "--out", "there.safetensors"),
        ("bench", "scaling", "--out", "."),
        ("demo", "--out", "."),
    ],
)
def test_every_command_looks_before_it_works(command: tuple[str, ...], here: Path) -> None:
    for name in ("there.safetensors", "evaluation.json", "scaling.png", "contact_sheet.jpg"):
        (here / name).write_bytes(b"mine")
    refused("already|perhaps not of a demo", *command)
    assert {path.read_bytes() for path in here.iterdir()} == {b"mine"}


def test_a_report_replaces_reports_alone(here: Path) -> None:
    check_report(here / "new")
    write_report(here, JobSummary(), History(), Watch())
    check_report(here)
    (here / "report.json").write_text('{"mine": 1}')
    with pytest.raises(SettingError, match=r"report\.json in .* and is none"):
        check_report(here)


def test_what_is_restored_keeps_its_time(archive: str, here: Path, photo_files: dict[str, bytes]) -> None:
    from datetime import UTC, datetime

    at = datetime(2020, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)
    ArchiveWriter.open_or_create("timed").commit([replace(kept("a.png", png(1)), modified_at=at)])
    run("restore", "timed", "a.png")
    assert (here / "a.png").stat().st_mtime == at.timestamp()
