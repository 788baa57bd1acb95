"""An object is read by the key that the listing gave, and no two keys end in one restored file."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from pipeline.archive.reader import Archive, read_rows
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import restore
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.storage.base import Storage
from pipeline.storage.names import flat_path, restored_path
from tests.cases.tiny import png

pytestmark = [pytest.mark.s3, pytest.mark.usefixtures("ray_session")]
KEYS = (
    "a//b.png",
    "a/b.png",
    "./x.png",
    "/x.png",
    "x.png",
    "a/../x.png",
    "end.png/",
    "end.png",
    "end.png/below.png",
    "n\x01.png",
)


def test_each_object_has_its_row_and_its_file(s3_url: str, tmp_path: Path) -> None:
    photos = {key: png(i) for i, key in enumerate(KEYS)}
    client = boto3.client("s3")
    for key, data in photos.items():
        client.put_object(Bucket=s3_url.removeprefix("s3://"), Key=f"p/{key}", Body=data)
    archive = str(tmp_path / "archive")
    for source in (f"{s3_url}/p", f"{s3_url}/p/"):
        summary = encode(EncodeJob(source=source, archive=archive, codec="original"))
        assert (summary.num_photos, summary.num_failed) == (len(KEYS), 0)
    assert summary.num_skipped == len(KEYS)
    assert {row.key: row.image for row in read_rows(Archive.open(archive))} == photos
    assert all(restore(archive, key).data == data for key, data in photos.items())

    out = tmp_path / "out"
    decoded = decode(DecodeJob(archive=archive, destination=str(out)))
    assert (decoded.num_restored, decoded.num_failed) == (len(KEYS), 0)
    found = {path.read_bytes(): path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found.keys() == set(photos.values())
    for key, data in photos.items():
        # `end.png` is a file and a folder: which of both comes second bears the other name.
        assert found[data] in (restored_path(key), flat_path(key))
        assert found[data] == restored_path(key) or key.startswith("end.png")

    decode(DecodeJob(archive=archive, destination=f"{s3_url}/out"))
    copies = {f.path: Storage(f"{s3_url}/out").read(f.path) for f in Storage(f"{s3_url}/out").list()}
    assert copies == {restored_path(key): data for key, data in photos.items()}
