"""Which way is up, the container says: in AVIF and HEIC its own boxes, elsewhere EXIF, and XMP nowhere."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codecs.points import parse_ladder
from pipeline.decode.restore import restore
from pipeline.pixels.formats.reader import read_pixels
from pipeline.records import Outcome
from tests.cases.pictures import EXIF, XMP_SEGMENT, chunk, in_jpeg, in_png, orientation_block, photo, saved, segment
from tests.cases.round_trip import there_and_back
from tests.exiftool import tags_of

pytestmark = pytest.mark.usefixtures("ray_session")
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:%(p)s="http://ns.adobe.com/tiff/1.0/"%(a)s>%(e)s</rdf:Description></rdf:RDF></x:xmpmeta>'
)
PACKETS = {
    "attribute": XMP % {b"p": b"tiff", b"a": b' tiff:Orientation="6"', b"e": b""},
    "single quotes": XMP % {b"p": b"tiff", b"a": b" tiff:Orientation = '6'", b"e": b""},
    "element": XMP % {b"p": b"tiff", b"a": b"", b"e": b"<tiff:Orientation>\n 6 </tiff:Orientation>"},
    "another prefix": XMP % {b"p": b"t", b"a": b' t:Orientation="6"', b"e": b""},
    "utf-16": ("\ufeff" + (XMP % {b"p": b"tiff", b"a": b' tiff:Orientation="6"', b"e": b""}).decode()).encode("utf-16-le"),
}
WIDTH, HEIGHT = 96, 64


def files() -> dict[str, bytes]:
    picture = photo(WIDTH, HEIGHT)
    found = {}
    for name, packet in PACKETS.items():
        found[f"{name}.avif"] = saved(picture, "AVIF", xmp=packet)
        found[f"{name}.jpg"] = in_jpeg(saved(picture, "JPEG"), segment(0xE1, XMP_SEGMENT + packet))
        found[f"{name}.png"] = in_png(saved(picture, "PNG"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
        found[f"{name}.webp"] = saved(picture, "WEBP", xmp=packet)
        # pillow-heif would turn the picture by these: they take the place of as many bytes.
        place = b"[" + b"x" * (len(packet) - 2) + b"]"
        found[f"{name}.heic"] = saved(picture, "HEIF", xmp=place).replace(place, packet)
    plain = orientation_block(3, b"\1\0")
    turned = orientation_block(4, b"\6\0\0\0")
    for format, suffix in (("HEIF", "heic"), ("AVIF", "avif")):
        found[f"exif says so.{suffix}"] = saved(picture, format, exif=EXIF + plain).replace(plain, turned)
    return found


@pytest.fixture(scope="module", params=["webp:30", "ditic-small:4"])
def restored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "source").mkdir()
    for name, data in files().items():
        (folder / "source" / name).write_bytes(data)
    rows, back = there_and_back(folder / "source", folder, ladder=parse_ladder(request.param))
    assert {key: row.reason for key, row in rows.items() if row.outcome is not Outcome.ENCODED} == {}
    assert {(row.width, row.height, row.orientation) for row in rows.values()} == {(WIDTH, HEIGHT, 1)}
    return folder / "source", back, str(folder / "archive")


def test_no_photo_is_turned(restored: tuple[Path, Path, str]) -> None:
    source, back, _ = restored
    expected = np.asarray(photo(WIDTH, HEIGHT)).astype(int)
    for path in source.iterdir():
        with Image.open(back / path.name) as image:
            assert image.size == (WIDTH, HEIGHT), path.name
        assert np.abs(read_pixels((back / path.name).read_bytes()) - expected).mean() < 25, path.name


def test_in_another_format_nothing_says_otherwise(restored: tuple[Path, Path, str], tmp_path: Path) -> None:
    source, _, archive = restored
    for path in source.iterdir():
        data = restore(archive, path.name, format="PNG" if path.suffix != ".png" else "JPEG").data
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (WIDTH, HEIGHT), path.name
            assert image.getexif().get(0x0112, 1) == 1, path.name
        (tmp_path / path.name).write_bytes(data)
    for name, tags in tags_of(tmp_path).items():
        found = {tag: value for tag, value in tags.items() if tag.endswith(":Orientation")}
        assert set(found.values()) <= {"Horizontal (normal)"}, (name, found)
