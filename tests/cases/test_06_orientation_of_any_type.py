"""An orientation of any integer type turns a photo, and once: in its own format, in another one, and over HTTP."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs.points import parse_ladder
from pipeline.decode.restore import restore
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.records import Outcome
from tests.cases.pictures import (
    EXIF,
    chunk,
    in_jpeg,
    in_png,
    in_tiff,
    in_webp,
    orientation_block,
    photo,
    riff_chunk,
    saved,
    segment,
)
from tests.cases.round_trip import there_and_back
from tests.exiftool import tags_of
from tests.served import serving

pytestmark = pytest.mark.usefixtures("ray_session")
TYPES = {"BYTE": (1, "B"), "SHORT": (3, "H"), "LONG": (4, "I"), "SBYTE": (6, "b"), "SSHORT": (8, "h"), "SLONG": (9, "i")}
SIZE = (96, 64)
TURNED = SIZE[::-1]


def files(orientation: int = 6) -> Iterator[tuple[str, bytes]]:
    picture = photo(*SIZE)
    jpeg, png, webp, tiff = (saved(picture, format) for format in ("JPEG", "PNG", "WEBP", "TIFF"))
    for name, (kind, code) in TYPES.items():
        for order in "<>":
            end = "le" if order == "<" else "be"
            for count in (1, 2, 3):
                values = struct.pack(order + count * code, orientation, *(count - 1) * [1])
                block = orientation_block(kind, values, count=count, order=order)
                yield f"{name} {end} {count}.jpg", in_jpeg(jpeg, segment(0xE1, EXIF + block))
                if count < 3:
                    yield f"{name} {end} {count}.png", in_png(png, chunk(b"eXIf", block))
                    yield f"{name} {end} {count}.webp", in_webp(webp, 8, riff_chunk(b"EXIF", block))
        values = struct.pack("<" + code, orientation)
        yield f"{name}.tif", in_tiff(tiff, 0x0112, kind, 1, values)
    short = orientation_block(3, struct.pack("<H", orientation))
    yield "with its prefix.png", in_png(png, chunk(b"eXIf", EXIF + short))
    yield "with its prefix.webp", in_webp(webp, 8, riff_chunk(b"EXIF", EXIF + short))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "source").mkdir()
    for name, data in files():
        (folder / "source" / name).write_bytes(data)
    rows, _ = there_and_back(folder / "source", folder, ladder=parse_ladder("webp:30"))
    assert {key: row.reason for key, row in rows.items() if row.outcome is not Outcome.ENCODED} == {}
    assert {(row.width, row.height, row.orientation) for row in rows.values()} == {(*TURNED, 6)}
    return folder


def test_in_its_own_format_it_is_as_it_was(folder: Path) -> None:
    for path in (folder / "source").iterdir():
        data = (folder / "restored" / path.name).read_bytes()
        assert probe(data).metadata.exif == probe(path.read_bytes()).metadata.exif
        assert np.abs(read_pixels(data).astype(int) - read_pixels(path.read_bytes())).mean() < 25, path.name
    assert stored_sizes(folder / "restored") == {SIZE}


def stored_sizes(folder: Path) -> set[tuple[int, int]]:
    return {
        (tags["File:ImageWidth"], tags["File:ImageHeight"]) for name, tags in tags_of(folder).items() if name.endswith("jpg")
    }


def test_in_another_format_it_is_upright_for_every_reader(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "source").iterdir():
        for format in {".jpg": ("PNG", "TIFF", "AVIF", "HEIF"), ".png": ("JPEG",)}.get(path.suffix, ("PNG",)):
            data = restore(str(folder / "archive"), path.name, format=format).data
            with Image.open(io.BytesIO(data)) as image:
                assert (image.size, image.getexif().get(0x0112, 1)) == (TURNED, 1), (path.name, format)
            (tmp_path / f"{path.name} as.{format.lower()}").write_bytes(data)
    for name, tags in tags_of(tmp_path).items():
        found = {tag: value for tag, value in tags.items() if tag.endswith((":Orientation", ":Rotation"))}
        assert set(found.values()) <= {"Horizontal (normal)", 0}, (name, found)


def test_over_http_too(folder: Path, tmp_path: Path) -> None:
    with serving(str(folder / "archive"), errors=tmp_path / "errors") as server:
        for key in ("LONG le 1.jpg", "BYTE be 1.png", "SLONG.tif", "SHORT le 2.webp"):
            for format in ("PNG", "JPEG"):
                answer = server.photo(key, f"?format={format.lower()}")
                assert answer.status == 200, answer.body
                assert answer.body == restore(str(folder / "archive"), key, format=format).data
