"""A folder goes in whole: what is no photo is kept as its bytes, what claims to be one and is not says so."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.care.verify import verify
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.container_check import check_container
from pipeline.codecs.points import CodecAt
from pipeline.decode.restore import decode_row, restore
from pipeline.encode.read import read_block
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
from pipeline.on_ray.work import split_work
from pipeline.records import EncodedPhoto, KeepOriginal, Outcome, encoded_from_table, photos_to_table
from pipeline.sources.folder import list_source
from pipeline.sources.selection import Selection
from tests.cases.odd_folders import keys_of, skips_of
from tests.cases.tiny import png


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png(1))
    return buffer.getvalue()


NO_PHOTOS = {
    "._a.jpg": b"\0\5\x16\7\0\2\0\0Mac OS X        ",  # what macOS keeps beside a.jpg
    "bm.txt": b"BMW, a text that begins as a bitmap does",
    "clip.mp4": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(range(256)) * 20,
    "empty.txt": b"",
    "notes": b"no suffix",
    "photos.zip": _zip(),
    "raw.pp3": b"[Version]\nAppVersion=5.9\n",
    "report.pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
}
CLAIMS = {"begins.dat": b"\xff\xd8\xff and no more", "cut.png": png(2)[:20], "empty.jpg": b"", "named.heic": b"text"}
SETTINGS = EncodeSettings(ladder=(CodecAt("webp"),))
PHOTOS = {"._b.png": png(3), "a.png": png(4), "noext": png(5), "wrong.txt": png(6)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of all three kinds."""
    for name, data in (NO_PHOTOS | CLAIMS | PHOTOS).items():
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    return tmp_path / "source"


def rows_of(folder: Path, settings: EncodeSettings) -> dict[str, EncodedPhoto]:
    table = read_block(photos_to_table(list_source(str(folder)).photos))
    return {row.key: row for row in encoded_from_table(split_work(EncodeWorker(settings)(table))[0])}


@pytest.mark.parametrize("codec", ["webp", "original"])
def test_what_is_no_photo_is_kept_as_its_bytes(codec: str, folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder, replace(SETTINGS, ladder=(CodecAt(codec),)))
    outcome = Outcome.ENCODED if codec == "webp" else Outcome.KEPT
    assert {key: row.outcome for key, row in rows.items()} == {
        **dict.fromkeys(NO_PHOTOS, Outcome.KEPT), **dict.fromkeys(CLAIMS, Outcome.FAILED), **dict.fromkeys(PHOTOS, outcome)
    }  # fmt: skip
    for key in NO_PHOTOS:
        assert (rows[key].reason or "").startswith("not a photo: "), rows[key].reason
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit(list(rows.values()))
    assert verify(archive, decode_row, check=check_container).is_clean
    for key, data in NO_PHOTOS.items():
        assert restore(archive.storage.url, key).data == data


def test_where_bytes_may_not_be_stored_it_fails_with_the_reason(folder: Path) -> None:
    for change, what in (({"keep_original": KeepOriginal.NEVER}, "--keep-original never"), ({"strip_gps": True}, "GPS")):
        rows = rows_of(folder, replace(SETTINGS, **change))
        assert {row.outcome for key, row in rows.items() if key in NO_PHOTOS} == {Outcome.FAILED}
        assert all(what in (rows[key].reason or "") and "not a photo" in (rows[key].reason or "") for key in NO_PHOTOS)
        assert rows["a.png"].outcome is Outcome.ENCODED


def test_a_file_that_is_too_large_to_store_fails_with_the_limit(folder: Path) -> None:
    (folder / "film.mov").write_bytes(bytes(3 << 20))
    rows = {
        row["key"]: row for row in read_block(photos_to_table(list_source(str(folder)).photos), max_bytes=2 << 20).to_pylist()
    }
    assert rows["film.mov"]["reason"] == "the file has 3 MiB, more than the limit of 2 MiB, a 16th of this machine's memory"
    assert rows["clip.mp4"]["data"] == NO_PHOTOS["clip.mp4"]


def test_photos_only_leaves_out_and_counts_what_is_no_photo(folder: Path) -> None:
    (folder / "nothing").symlink_to("nowhere")
    listing = list_source(str(folder), Selection(photos_only=True))
    # What cannot be read may be a photo: its row says so.
    assert keys_of(listing) == sorted([*CLAIMS, *PHOTOS, "nothing"])
    assert skips_of(listing) == {"no_photo": len(NO_PHOTOS)}
    assert not any(listing.lacks(key) for key in NO_PHOTOS)
    assert listing.lacks("gone.txt")


@pytest.mark.s3
def test_photos_only_in_a_bucket(folder: Path, s3_url: str) -> None:
    from pipeline.storage.base import Storage

    storage = Storage(f"{s3_url}/root")
    for path in folder.iterdir():
        storage.write(path.name, path.read_bytes())
    assert keys_of(list_source(storage.url, Selection(photos_only=True))) == sorted([*CLAIMS, *PHOTOS])
