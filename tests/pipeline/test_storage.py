"""One set of operations over a folder, a bucket, and what fsspec opens."""

from __future__ import annotations

import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import SettingError, StorageError
from pipeline.sources.folder import list_photos
from pipeline.sources.manifest import blocks
from pipeline.storage import Storage


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(f"{request.getfixturevalue('s3_url')}/root")
    return Storage(tmp_path / "root" if request.param == "local" else f"memory://{tmp_path.name}/root")


def test_what_is_written_is_listed_and_read(storage: Storage) -> None:
    files = {"a.bin": b"alpha", "b c/ü.bin": b"\0\1\2" * 1000}
    for path, data in files.items():
        storage.write(path, data)
    assert {f.path: f.size_bytes for f in storage.list()} == {path: len(data) for path, data in files.items()}
    again = pickle.loads(pickle.dumps(storage))
    for path, data in files.items():
        assert again.read(path) == data
        assert storage.exists(path)
    with storage.open("b c/ü.bin") as handle:
        handle.seek(3)
        assert handle.read(3) == b"\0\1\2"
    assert not storage.exists("absent")
    storage.delete("a.bin")
    storage.delete("a.bin")
    assert [f.path for f in storage.list()] == ["b c/ü.bin"]


def test_a_missing_file_is_an_error_with_its_url(storage: Storage) -> None:
    storage.write("a", b"")
    with pytest.raises(StorageError, match="absent") as caught:
        storage.read("absent")
    assert storage.url in str(caught.value)
    assert "tests-secret" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../up", "a\0b"])
def test_paths_that_leave_the_root_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no safe path"):
        Storage(tmp_path / "root").write(path, b"x")
    with pytest.raises(StorageError, match="no safe path"):
        Storage(tmp_path / "root").delete(path)
    assert list(tmp_path.iterdir()) == []


def test_a_local_write_keeps_the_time_and_leaves_no_part(tmp_path: Path) -> None:
    at = datetime(2020, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    Storage(tmp_path).write("a/b.jpg", b"first")
    Storage(tmp_path).write("a/b.jpg", b"second", modified_at=at)
    assert (tmp_path / "a/b.jpg").read_bytes() == b"second"
    assert (tmp_path / "a/b.jpg").stat().st_mtime == at.timestamp()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.jpg"]


def test_delta_gets_the_credentials_of_the_chain(s3_url: str, s3_server: str) -> None:
    options = Storage(s3_url).delta_options()
    assert options["AWS_ACCESS_KEY_ID"] == "tests"
    assert options["AWS_ENDPOINT_URL"] == s3_server
    assert options["AWS_ALLOW_HTTP"] == "true"
    assert Storage("/tmp").delta_options() == {}


def test_photos_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a b/é.jpg", ".hidden", "arch/_delta_log/0.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    photos = list_photos(str(tmp_path))
    assert [p.key for p in photos] == [".hidden", "a b/é.jpg", "arch/_delta_log/0.json", "b.jpg"]
    assert all(p.size_bytes == 1 and p.modified_at for p in photos)
    with pytest.raises(SettingError, match="does not exist"):
        list_photos(str(tmp_path / "absent"))


def test_names_that_are_no_text_and_links_to_nothing_are_listed_and_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg")).write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    photos = list_photos(str(tmp_path))
    assert [p.key for p in photos] == ["bad\\xff.jpg", "good.jpg", "link.jpg"]
    storage = Storage(tmp_path)
    with pytest.raises(StorageError, match="not UTF-8"):
        storage.read(photos[0].key)
    with pytest.raises(StorageError, match="does not exist"):
        storage.read(photos[2].key)


def test_blocks_are_contiguous_and_bounded(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(b"x" * (1000 if i == 4 else 100))
    photos = list_photos(str(tmp_path))
    runs = blocks(photos, max_photos=4, max_bytes=350)
    assert [photo for run in runs for photo in run] == photos
    assert [len(run) for run in runs] == [3, 1, 1, 3, 2]


def test_the_last_blocks_are_smaller_where_several_take_them(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"{i:03d}.jpg").write_bytes(b"x")
    photos = list_photos(str(tmp_path))
    runs = blocks(photos, max_photos=8, max_bytes=350, min_photos=2, num_takers=2)
    sizes = [len(run) for run in runs]
    assert [photo for run in runs for photo in run] == photos
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 8
    assert sizes[-5:] == [2, 2, 2, 2, 1]
    assert {len(run) for run in blocks(photos, max_photos=10, max_bytes=350, min_photos=2)} == {10}
