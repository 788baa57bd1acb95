"""Nothing that a command did not write itself is replaced, unless it is asked to."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive.writer import ArchiveWriter
from pipeline.decode.job import DecodeJob
from pipeline.decode.run import decode
from pipeline.errors import SettingError
from pipeline.patterns import KeyPatterns
from pipeline.storage.base import Storage
from tests.cases.tiny import kept, png
from tests.support.command_line import photoark

pytestmark = pytest.mark.usefixtures("ray_session")
KEYS = ("a.png", "sub/b.png", "sub/deep/c.png")


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """Three photos, and a row that failed."""
    url = str(tmp_path / "archive")
    ArchiveWriter.open_or_create(url).commit([kept(key, png(i)) for i, key in enumerate(KEYS)])
    return url


def write(folder: Path, *keys: str, data: bytes = b"original") -> None:
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)


def state(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Inode, time and bytes of everything below a folder."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (
            status.st_ino, status.st_mtime_ns if path.is_file() else 0, path.read_bytes() if path.is_file() else None,
        )  # fmt: skip
    return found


def test_decode_stops_before_it_begins_where_files_are_there(archive: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "sub/b.png", "sub/deep/c.png", "unrelated.png")
    (out / "a.png").symlink_to("nowhere")
    before = state(out)
    for job in (DecodeJob(archive=archive, destination=str(out)), DecodeJob(archive=archive, destination=f"file://{out}/")):
        with pytest.raises(SettingError, match=r"3 of the files, a.png the first, are in .*out already.*--resume.*--overwrite"):
            decode(job)
    with pytest.raises(SettingError, match=r"sub/b.png is in .*, and not of this job: --overwrite"):
        decode(replace(job, patterns=KeyPatterns(include=("sub/b*",)), resume=True))
    assert state(out) == before

    (out / "a.png").unlink()
    assert decode(replace(job, patterns=KeyPatterns(include=("a*",)))).num_restored == 1
    assert state(out).items() - {("a.png", state(out)["a.png"])} == before.items() - {("a.png", before["a.png"])}
    assert decode(replace(job, overwrite=True)).num_restored == 3
    assert [(out / key).read_bytes() for key in KEYS] == [png(0), png(1), png(2)]
    assert (out / "unrelated.png").read_bytes() == b"original"


def test_resume_leaves_its_own_files_and_nothing_else(tmp_path: Path, archive: str) -> None:
    url, out = str(tmp_path / "timed"), tmp_path / "out"
    at = datetime(2020, 1, 2, 3, 4, 5, 6000, tzinfo=UTC)
    ArchiveWriter.open_or_create(url).commit([replace(kept(key, png(i)), modified_at=at) for i, key in enumerate(KEYS)])
    job = DecodeJob(archive=url, destination=str(out), resume=True)
    assert decode(replace(job, patterns=KeyPatterns(include=("a.png",)))).num_restored == 1
    before = state(out)
    summary = decode(job)
    assert (summary.num_restored, summary.num_skipped) == (2, 1)
    assert state(out)["a.png"] == before["a.png"]
    # A file of another time is somebody's work on it.
    os.utime(out / "a.png", (1, 1))
    with pytest.raises(SettingError, match="not of this job"):
        decode(job)
    summary = decode(replace(job, overwrite=True))
    assert (summary.num_restored, summary.num_skipped) == (1, 2)
    assert (out / "a.png").stat().st_mtime == at.timestamp()


def test_a_folder_that_is_holds_or_lies_in_an_archive_is_refused(archive: str, tmp_path: Path) -> None:
    other = tmp_path / "pictures" / "2024" / "archive"
    ArchiveWriter.open_or_create(str(other)).commit([kept("x.png", png(9))])
    (tmp_path / "link").symlink_to(archive)
    (tmp_path / "without log").mkdir()
    shard = next(Path(archive).glob("photos-*.parquet"))
    (tmp_path / "without log" / shard.name).write_bytes(shard.read_bytes())
    places = (
        archive, f"{archive}/", f"{archive}/new/deep", f"{archive}/_delta_log", str(tmp_path), str(tmp_path / "pictures"),
        str(other), str(other / "sub"), str(tmp_path / "link"), str(tmp_path / "link" / "sub"), str(tmp_path / "without log"),
    )  # fmt: skip
    before = state(tmp_path)
    for place in places:
        for overwrite in (False, True):
            with pytest.raises(SettingError, match="is, holds or lies in an archive"):
                decode(DecodeJob(archive=archive, destination=place, overwrite=overwrite))
    assert state(tmp_path) == before
    # A table of another program, and names that only look like those of an archive, are not.
    names = [f"photos-{digits}.parquet" for digits in ("0" * 32, "0" * 64)]
    write(tmp_path / "fine", "x_delta_log/0.json", "_delta_log/notes.txt", "photos-2024.parquet", *names)
    pq.write_table(pa.table({"key": [1]}), tmp_path / "fine" / f"photos-{'1' * 64}.parquet")
    assert decode(DecodeJob(archive=archive, destination=str(tmp_path / "fine"))).num_restored == 3


def test_a_shard_that_a_source_held_comes_back_and_does_not_hinder_the_next_decode(archive: str, tmp_path: Path) -> None:
    shard = next(Path(archive).glob("photos-*.parquet"))
    url, out, name = str(tmp_path / "other"), tmp_path / "out", f"photos-{'2' * 32}.parquet"
    at = datetime(2020, 1, 2, tzinfo=UTC)
    rows = [kept(f"sub/{shard.name}", shard.read_bytes()), kept(name, b"notes"), kept("a.png", png(0))]
    ArchiveWriter.open_or_create(url).commit([replace(row, modified_at=at) for row in rows])
    job = DecodeJob(archive=url, destination=str(out), resume=True)
    assert decode(job).num_restored == 3
    (out / "a.png").unlink()
    assert (decode(job).num_restored, decode(job).num_skipped) == (1, 3)
    with pytest.raises(SettingError, match=r"are in .* already"):
        decode(replace(job, resume=False))


def test_nothing_is_written_through_a_linked_folder(archive: str, tmp_path: Path) -> None:
    out, originals = tmp_path / "out", tmp_path / "originals"
    write(originals, "b.png", "deep/c.png")
    write(out, "sub/unrelated.png")
    (out / "sub" / "deep").symlink_to(originals)
    (out / "also").symlink_to(originals)  # no photo is restored to it
    before = state(tmp_path)
    for options in ({}, {"resume": True}, {"overwrite": True}, {"patterns": KeyPatterns(include=("sub/deep/*",))}):
        for place in (str(out), f"local://{out}"):
            with pytest.raises(SettingError, match=r"out/sub/deep is a link, and files are not written through links"):
                decode(DecodeJob(archive=archive, destination=place, **options))
    assert state(tmp_path) == before
    assert (
        decode(DecodeJob(archive=archive, destination=str(out), patterns=KeyPatterns(exclude=("*/deep/*",)))).num_restored == 2
    )
    (out / "sub" / "deep").unlink()
    (out / "sub" / "deep").symlink_to(tmp_path / "nowhere")
    summary = decode(DecodeJob(archive=archive, destination=str(out), resume=True, overwrite=True))
    assert [key for key, reason in summary.failures if "is a link" in reason] == ["sub/deep/c.png"]
    assert sorted(path.name for path in originals.rglob("*.png")) == ["b.png", "c.png"]
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "also", "sub"]


def test_a_folder_may_be_named_by_a_link(archive: str, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert decode(DecodeJob(archive=archive, destination=str(tmp_path / "out"))).num_restored == 3
    assert (tmp_path / "disk" / "sub" / "b.png").read_bytes() == png(1)


@pytest.mark.s3
def test_the_same_in_a_bucket(s3_url: str, archive: str) -> None:
    out = Storage(f"{s3_url}/out")
    out.write("sub/b.png", b"original")
    job = DecodeJob(archive=archive, destination=out.url)
    with pytest.raises(SettingError, match=r"sub/b.png is in s3://.*/out already"):
        decode(job)
    assert {f.path for f in out.list()} == {"sub/b.png"}
    assert decode(replace(job, overwrite=True)).num_restored == 3
    assert out.read("sub/b.png") == png(1)
    ArchiveWriter.open_or_create(f"{s3_url}/deep/archive").commit([kept("x.png", png(9))])
    for place in ("", "/deep", "/deep/archive", "/deep/archive/", "/deep/archive/new"):
        with pytest.raises(SettingError, match="is, holds or lies in an archive"):
            decode(DecodeJob(archive=archive, destination=s3_url + place))


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_file_that_comes_meanwhile_is_left_alone(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from pipeline.decode.worker import DecodeSettings, DecodeWorker
    from pipeline.errors import AlreadyExistsError
    from pipeline.records import encoded_to_table

    root = Storage(request.getfixturevalue("s3_url") if kind == "s3" else tmp_path / "out")
    root.write("a.png", b"somebody's")
    root.write("b.png", png(1))  # as an earlier try at the same block left it
    worker = DecodeWorker(DecodeSettings(destination=root.url))
    rows = encoded_to_table([kept("a.png", png(0)), kept("b.png", png(1)), kept("c.png", png(2))])
    reasons = {row["key"]: row["reason"] for row in worker(rows).to_pylist()}
    assert "is there already" in (reasons.pop("a.png") or "")
    assert reasons == {"b.png": None, "c.png": None}
    assert root.read("a.png") == b"somebody's"
    with pytest.raises(AlreadyExistsError):
        root.write("c.png", b"other", replace=False)
    assert root.read("c.png") == png(2)


def test_the_command_says_so_in_one_line(archive: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, *KEYS)
    before = state(out)
    for options, words in (((), "3 of the files"), (("--include", "no*"), "no key of")):
        found = photoark("decode", archive, out, *options)
        assert found.returncode == 2, found.stderr
        *_, line = found.stderr.splitlines()  # before it, what the command waited for
        assert line.startswith("photoark: ") and words in line
    assert state(out) == before
