"""One set of operations over a folder, a bucket, and what fsspec opens."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import SettingError, StorageError
from pipeline.sources.folder import list_photos
from pipeline.sources.manifest import blocks
from pipeline.storage.base import Storage, fetch


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


def test_objects_are_listed_and_read_by_their_very_keys(s3_url: str, s3_server: str) -> None:
    import boto3

    client, bucket = boto3.client("s3", endpoint_url=s3_server), s3_url.removeprefix("s3://")
    keys = ("p/a", "p/a/b", "p/a//b", "p//x", "p/x", "p/./y", "p/a/../x", "p/end/", "p//", "/p/x", "p%20/x", "p+x/é ?#")
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    client.put_object(Bucket=bucket, Key="p/empty/", Body=b"")  # a folder, as consoles make them

    def listed(root: str) -> dict[str, bytes]:
        return {f.path: fetch(f.uri).data for f in Storage(root).list()}

    assert listed(s3_url) == {key: key.encode() for key in keys}
    assert listed(f"{s3_url}/") == listed(s3_url)
    below = {key.removeprefix("p/"): key.encode() for key in keys if key.startswith("p/")}
    assert listed(f"{s3_url}/p") == listed(f"{s3_url}/p/") == below
    assert listed(f"{s3_url}/p//") == listed(Storage(f"{s3_url}/p//").url) == {"x": b"p//x", "": b"p//"}
    assert listed(f"{s3_url}//") == {"p/x": b"/p/x"}
    assert [f.uri for f in Storage(f"{s3_url}/p//").list()] == [f"{s3_url}/p//", f"{s3_url}/p//x"]
    with Storage(f"{s3_url}/p").open("a//b") as handle:
        assert handle.read() == b"p/a//b"


def test_local_paths_are_taken_as_they_are_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("far/sub")
    assert Storage("link/../x").url == str(tmp_path / "far" / "x")
    raw = os.fsdecode(b"b\xff")
    for name in ("a b", "%41", "a#b", "a?b", "ü", "back\\slash", "new\nline", "a:b", "s3:", "␛ff", raw):
        Storage(name).write("f", name.encode(errors="surrogateescape"))
        assert (tmp_path / name / "f").exists()
        (file,) = Storage(f"{name}/").list()
        assert fetch(file.uri).data == Storage(Storage(name).url).read("f") == (tmp_path / name / "f").read_bytes()
    for bad in ("", "a\0b"):
        with pytest.raises(SettingError, match="must not be empty"):
            Storage(bad)


def test_file_urls_are_decoded_or_refused(tmp_path: Path) -> None:
    Storage(tmp_path / "a b%é").write("f", b"x")
    for url in ("file://{}/a%20b%25%C3%A9", "file://localhost{}/a%20b%25é", "FILE://{}/a b%25%c3%a9/"):
        assert Storage(url.format(tmp_path)).read("f") == b"x"
    for bad in (
        "file://host/a",
        "file://a",
        "file://",
        "file:///a?b",
        "file:///a#b",
        "file:///100%",
        "file:///a%00",
        "file:///a%2fb",
    ):
        with pytest.raises(SettingError, match="file"):
            Storage(bad)


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


def test_a_local_write_keeps_the_time_to_the_microsecond(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    start = datetime(2026, 11, 28, 12, 24, 49, 836309, UTC)
    times = [start + timedelta(microseconds=i) for i in range(50)]
    times.append(datetime(1955, 11, 5, 6, 15, 0, 123457, UTC))
    for i, time in enumerate(times):
        storage.write(f"{i:02d}", b"", modified_at=time)
    assert [file.modified_at for file in storage.list()] == times


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


def test_names_that_are_not_utf8_and_links_to_nothing_are_listed(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.jpg")).write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    photos = list_photos(str(tmp_path))
    assert [p.key for p in photos] == ["bad␛ff.jpg", "good.jpg", "link.jpg"]
    assert fetch(photos[0].uri).data == Storage(tmp_path).read(photos[0].key) == b"x"
    with pytest.raises(StorageError, match="does not exist"):
        fetch(photos[2].uri)


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


@pytest.mark.parametrize("call", ["exists()", "delta_options()"])
def test_a_command_tries_an_address_that_never_answered_twice(call: str) -> None:
    program = f"""
import logging
from pipeline.storage import s3
from pipeline.errors import StorageError
from pipeline.storage.base import Storage
tries = []
s3.log.setLevel("INFO")
s3.log.addHandler(logging.NullHandler())
s3.log.addFilter(lambda record: tries.append(record.attempt) or False)
s3.give_up_early()
try:
    Storage("s3://bucket/archive").{call}
except StorageError as error:
    print(tries, error)
"""
    settings = {
        "AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests-secret", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }  # fmt: skip
    environment = os.environ | settings
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("[1, 2] s3://bucket/archive cannot be ")
    assert "the store cannot be reached: check the network and AWS_ENDPOINT_URL" in found.stdout
    assert len(found.stdout.splitlines()) == 1
