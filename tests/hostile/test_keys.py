"""Keys from anywhere: what an archive calls its photos cannot make a file outside of the folder that it is restored to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.archive.commit import Archive
from pipeline.errors import ArchiveDamagedError, StorageError
from pipeline.records import EncodedPhoto, Outcome, encoded_to_table
from pipeline.stages.decode_worker import DecodeSettings, DecodeWorker
from pipeline.storage import Storage

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


@pytest.mark.parametrize("kind", ["outside", "odd"])
def test_restored_files_stay_below_their_folder(kind: str, tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "out"
    keys = OUTSIDE if kind == "outside" else ODD
    worker = DecodeWorker(DecodeSettings(destination=str(destination)))
    results = {result["key"]: result["reason"] for result in worker(encoded_to_table(map(kept, keys))).to_pylist()}
    written = {key for key, reason in results.items() if reason is None}
    if kind == "outside":
        assert written == set()
        assert all("safe path" in reason for reason in results.values())
    else:
        # Too long a name is the file system's to refuse; every other one is a name like others.
        assert set(ODD) - written == {key for key in ODD if any(len(part) > 255 for part in key.split("/"))} | {
            key for key in ODD if len(key) > 4096
        }
    assert tree(tmp_path) == {f"deep/out/{key}" for key in written}


def test_keys_that_differ_in_case_or_are_anothers_folder_lose_nothing(tmp_path: Path) -> None:
    keys = ("A.jpg", "a.jpg", "a.JPG", "x", "x/y.jpg", "é.jpg", "e\u0301.jpg")
    worker = DecodeWorker(DecodeSettings(destination=str(tmp_path)))
    results = {result["key"]: result["reason"] for result in worker(encoded_to_table(map(kept, keys))).to_pylist()}
    written = {key for key, reason in results.items() if reason is None}
    assert {"A.jpg", "a.jpg", "a.JPG", "é.jpg", "e\u0301.jpg"} <= written
    assert len(written & {"x", "x/y.jpg"}) == 1  # one of them, and the other says that it could not be written
    assert tree(tmp_path) == written


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
    Archive.open_or_create(str(tmp_path / "secret")).commit([kept("a.jpg")])
    (tmp_path / "secret.parquet").write_bytes(next((tmp_path / "secret").glob("*.parquet")).read_bytes())
    Archive.open_or_create(str(tmp_path / "archive")).commit([kept("a.jpg")])
    log = tmp_path / "archive" / "_delta_log" / f"{1:020d}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            action["add"]["path"] = path
    log.write_text("\n".join(json.dumps(action) for action in actions if "commitInfo" not in action))
    with pytest.raises(ArchiveDamagedError, match=r"outside of the archive|cannot be read"):
        Archive.open(str(tmp_path / "archive")).keys()
