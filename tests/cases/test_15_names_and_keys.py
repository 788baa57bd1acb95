"""A name that is not UTF-8 and one that spells it are two keys, and both files come back under their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.archive.reader import Archive, read_rows
from pipeline.archive.versions import Comparer
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import restore
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.sources.folder import list_photos
from tests.cases.tiny import png

NAMES = {
    b"b\xff.png": "b␛ff.png",
    b"b\\xff.png": "b\\xff.png",
    "b␛ff.png".encode(): "b␛e2␛90␛9bff.png",
    "b␛.png".encode(): "b␛.png",
    "␛-x.png".encode(): "␛-x.png",
    b"caf\xe9/\xe4\xf6\xfc.png": "caf␛e9/␛e4␛f6␛fc.png",
    "M\ufffdnchen.png".encode(): "M\ufffdnchen.png",
    b"new\nline.png": "new\nline.png",
    b"100%20.png": "100%20.png",
}
"""Name on disk -> key."""


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("root", ["src", os.fsdecode(b"src\xe9")])
def test_every_name_has_its_row_and_comes_back(root: str, tmp_path: Path) -> None:
    photos = {name: png(i) for i, name in enumerate(NAMES)}
    escaped = photos.pop("␛-x.png".encode())
    found = there_and_back({**photos, "␛-x.png".encode(): escaped}, NAMES, tmp_path / root)
    # A name that looks like one that a restore made up is escaped too.
    assert found == {**photos, "␛-%E2%90%9B-x.png".encode(): escaped}


def there_and_back(photos: dict[bytes, bytes], keys: dict[bytes, str], source: Path) -> dict[bytes, bytes]:
    """Encode files of these names below `source`, look at rows and listing, and return what is restored."""
    for name, data in photos.items():
        path = source / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    archive, out = str(source.parent / "archive"), source.with_name(f"{source.name}-out")
    summary = encode(EncodeJob(source=str(source), archive=archive, codec="original"))
    assert (summary.num_photos, summary.num_failed) == (len(photos), 0)
    rows = {row.key: row.image for row in read_rows(Archive.open(archive))}
    assert rows == {keys[name]: data for name, data in photos.items()}
    assert all(restore(archive, key).data == data for key, data in rows.items())
    comparer = Comparer(list_photos(str(source)))
    for row in Archive.open(archive).sources():
        comparer.see(row)
    assert comparer.result().num_same == len(photos)
    decoded = decode(DecodeJob(archive=archive, destination=str(out)))
    assert (decoded.num_restored, decoded.num_failed) == (len(photos), 0)
    return {os.path.relpath(os.fsencode(p), os.fsencode(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
