"""Keys from anywhere: what an archive calls its photos cannot make a file outside of the folder that it is restored to."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.archive.writer import ArchiveWriter
from pipeline.decode.worker import DecodeSettings, DecodeWorker
from pipeline.errors import ArchiveDamagedError, StorageError
from pipeline.records import EncodedPhoto, Outcome, encoded_to_table
from pipeline.storage.base import Storage, check_relative
from pipeline.storage.names import flat_path, key_of_name, name_of_key, restored_path

FILE = b"bytes of a photo"
OUTSIDE = (
    "../up.jpg", "a/../../up.jpg", "..", "a/..", "/etc/photo.jpg", "//host/photo.jpg", "nul\0.jpg", "a/\0/b.jpg", "",
    ".", "./..", "a/.", "a/", "./up.jpg", "a//../../b",
)  # fmt: skip
ODD = (
    "n" * 4096 + ".jpg", "/".join(["d" * 200] * 30), "...", "a/.../b", "..a/b..", " ", "\n.jpg", "-rf", "~/x", "$HOME",
    "C:\\x.jpg", "a\\..\\b.jpg", "%2e%2e/x.jpg", "\u202egpj.exe", "con", ".part", "..\u2215x",
)  # fmt: skip


def kept(key: str) -> EncodedPhoto:
    return EncodedPhoto(
        key=key, image=FILE, codec="original", model=None, outcome=Outcome.KEPT, reason="asked for", source_uri="/x",
        source_bytes=len(FILE),
    )  # fmt: skip


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def restored(keys: tuple[str, ...], destination: Path) -> dict[str, str | None]:
    """Key -> the reason why it was not restored."""
    worker = DecodeWorker(DecodeSettings(destination=str(destination)))
    results = worker(encoded_to_table(replace(kept(key), image=key.encode()) for key in keys)).to_pylist()
    return {result["key"]: result["reason"] for result in results}


def test_every_key_has_a_file_of_its_own_below_the_folder(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "out"
    reasons = restored(OUTSIDE + ODD, destination)
    # Too long a path is the file system's to refuse.
    assert {key for key, reason in reasons.items() if reason} == {key for key in ODD if len(key) > 4096 and "/" in key}
    found = {(tmp_path / path).read_bytes().decode(): path.removeprefix("deep/out/") for path in tree(tmp_path)}
    assert found.keys() == {key for key, reason in reasons.items() if reason is None}
    # `.` and `./up.jpg` cannot both be below `.`.
    assert all(path in (restored_path(key), flat_path(key)) for key, path in found.items())
    assert all(path.startswith("deep/out/") for path in tree(tmp_path))


def test_ordinary_keys_keep_their_names_and_others_are_escaped() -> None:
    for key in ("a/b c.jpg", "ü/漢.png", "a\\b", "...", ".hidden", "100%25.jpg", "a\n", "␛", "x" * 255):
        assert restored_path(key) == key
    for key, path in {
        "a//b": "a/␛-/b", "/a": "␛-/a", "a/": "a/␛-", "": "␛-", ".": "␛-.", "../x": "␛-../x", "a\0b": "␛-a%00b",
        "␛-/x%": "␛-%E2%90%9B-/x%", "␛-%": "␛-%E2%90%9B-%25", "␛c3␛a9": "␛-%E2%90%9Bc3%E2%90%9Ba9",
    }.items():  # fmt: skip
        assert restored_path(key) == path
    long = "漢" * 90 + ".jpg"
    assert len(restored_path(long).encode()) <= 255
    assert re.fullmatch("␛-漢+%~[0-9a-f]{32}.jpg", restored_path(long))


@given(st.lists(st.text(st.sampled_from("␛-+%~./\0aef029Eéx") | st.characters(codec="utf-8")), unique=True))
def test_two_keys_never_have_one_path(keys: list[str]) -> None:
    paths = [path for key in keys for path in (restored_path(key), flat_path(key))]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert check_relative(path) == path
        assert all(part and len(name_of_key(part)) <= 255 for part in path.split("/"))
        assert key_of_name(name_of_key(path)) == path


PIECES = (*(bytes([byte]) for byte in "␛".encode()), "␛".encode(), b"f", b"\xff")


@given(st.lists(st.binary() | st.lists(st.sampled_from(PIECES)).map(b"".join)))
def test_names_on_disk_and_keys_are_one_to_one(names: list[bytes]) -> None:
    for name in names:
        key = key_of_name(name)
        assert name_of_key(key) == name
        key.encode()  # it has no surrogates
        with suppress(UnicodeDecodeError):
            assert key == name.decode() or "␛".encode() in name


def test_keys_that_differ_in_case_or_are_anothers_folder_all_come_back(tmp_path: Path) -> None:
    keys = ("A.jpg", "a.jpg", "a.JPG", "x", "x/y.jpg", "é.jpg", "e\u0301.jpg")
    for order in (keys, tuple(reversed(keys))):
        folder = tmp_path / order[0]
        for key in order:
            assert restored((key,), folder) == {key: None}
        # Of a key that is also a folder, the second one to come bears another name.
        other = flat_path("x/y.jpg") if order is keys else flat_path("x")
        plain = {"x", "x/y.jpg"} - {"x/y.jpg" if order is keys else "x"}
        assert tree(folder) == set(keys) - {"x", "x/y.jpg"} | plain | {other}
        assert sorted((folder / path).read_text() for path in tree(folder)) == sorted(keys)


def test_a_file_is_not_written_through_a_link_that_leads_away(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jpg"
    elsewhere.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jpg").symlink_to(elsewhere)
    Storage(str(tmp_path / "out")).write("a.jpg", FILE)
    assert elsewhere.read_bytes() == b"precious"
    assert (tmp_path / "out" / "a.jpg").read_bytes() == FILE


@pytest.mark.parametrize("key", OUTSIDE)
def test_nothing_is_written_or_deleted_outside_of_a_bucket_prefix(key: str, s3_url: str) -> None:
    storage = Storage(f"{s3_url}/prefix")
    with pytest.raises(StorageError, match="safe path"):
        storage.write(key, FILE)
    with pytest.raises(StorageError, match="safe path"):
        storage.delete(key)


@pytest.mark.parametrize("path", ["../secret.parquet", "/etc/passwd", "a/../../secret.parquet", "%2e%2e/secret.parquet"])
def test_a_log_cannot_name_files_outside_of_its_archive(path: str, tmp_path: Path) -> None:
    ArchiveWriter.open_or_create(str(tmp_path / "secret")).commit([kept("a.jpg")])
    (tmp_path / "secret.parquet").write_bytes(next((tmp_path / "secret").glob("*.parquet")).read_bytes())
    ArchiveWriter.open_or_create(str(tmp_path / "archive")).commit([kept("a.jpg")])
    log = tmp_path / "archive" / "_delta_log" / f"{1:020d}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"]["path"] = path
    log.write_text("\n".join(json.dumps(action) for action in actions if "commitInfo" not in action))
    with pytest.raises(ArchiveDamagedError, match=r"outside of the archive|cannot be read"):
        ArchiveWriter.open(str(tmp_path / "archive")).keys()
