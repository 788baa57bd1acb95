"""What is encoded can be decoded into its own container with all of its metadata, however long, or its bytes are kept."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
from pathlib import Path

import pytest
from PIL import Image

from pipeline.codecs.points import parse_ladder
from pipeline.records import Outcome
from tests.cases.round_trip import there_and_back
from tests.cases.test_16_metadata_in_odd_places import segment
from tests.exiftool import tags_of

pytestmark = pytest.mark.usefixtures("ray_session")
MAKER_NOTE, MAKE = 0x927C, 0x010F


def exif_of(num_bytes: int, maker: bytes = b"Acme\0\0") -> bytes:
    """An EXIF block with a maker note of so many bytes."""
    note = bytes(i * 7 & 0xFF for i in range(num_bytes))
    first = struct.pack("<H", 2) + struct.pack("<HHII", MAKE, 2, len(maker), 38) + struct.pack("<HHII", 0x8769, 4, 1, 44)
    exif = struct.pack("<H", 1) + struct.pack("<HHII", MAKER_NOTE, 7, len(note), 62) + bytes(4)
    return b"II*\0\x08\0\0\0" + first + bytes(4) + maker + exif + note


def app1(exif: bytes, size: int = 65_527) -> bytes:
    return b"".join(segment(0xE1, b"Exif\0\0" + exif[at : at + size]) for at in range(0, len(exif), size))


def packet(description: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Headline="a headline" '
        f'photoshop:Instructions="{description}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    buffer = io.BytesIO()
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    picture.save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    long = packet("x" * 65_000)
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + long)
    files = {
        "plain.jpg": b"",
        "split in two.jpg": app1(exif_of(90_000)),
        "split in small pieces.jpg": app1(exif_of(90_000), 40_000),
        "split in four.jpg": app1(exif_of(230_000)),
        "two whole blocks.jpg": app1(exif_of(100)) + app1(exif_of(100, b"Other\0")),
        "xmp that fills its segment.jpg": xmp,
        "exif and xmp.jpg": app1(exif_of(90_000)) + xmp,
    }
    for name, segments in files.items():
        (folder / name).write_bytes(jpeg[:2] + segments + jpeg[2:])
    for name in ("long.png", "long.webp", "long.avif", "long.heic"):
        picture.save(folder / name, xmp=long, exif=b"Exif\0\0" + exif_of(90_000))
    picture.save(folder / "long.tif", tiffinfo={700: long})
    return folder


def test_metadata_of_any_length_comes_back(source: Path, tmp_path: Path) -> None:
    rows, restored = there_and_back(source, tmp_path)
    # Of two whole blocks the first alone counts for readers; the other would be lost, so the file is kept.
    assert {name for name, row in rows.items() if row.outcome is not Outcome.ENCODED} == {"two whole blocks.jpg"}
    assert rows["two whole blocks.jpg"].outcome is Outcome.KEPT
    before, after = tags_of(source), tags_of(restored)
    assert after.keys() == before.keys()
    for name, tags in after.items():
        for tag in ("IFD0:Make", "XMP-photoshop:Headline", "XMP-photoshop:Instructions"):
            assert tags.get(tag) == before[name].get(tag), (name, tag)
    for name in ("split in two.jpg", "split in small pieces.jpg", "exif and xmp.jpg"):
        assert rows[name].exif == exif_of(90_000)
        assert (restored / name).read_bytes().count(b"\xff\xe1\xff\xffExif\0\0") == 1  # and a shorter one follows
        assert (restored / name).read_bytes().count(b"Exif\0\0") == 2
    assert rows["split in four.jpg"].exif == exif_of(230_000)
    assert rows["two whole blocks.jpg"].exif == exif_of(100)


def test_a_codec_finds_room_for_its_note_or_the_bytes_are_kept(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(source / "xmp that fills its segment.jpg", folder / "full.jpg")
    # A second part whose prefixes the first does not declare, so that they cannot be joined and divided anew.
    extended = b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description/></r:RDF>'
    digest = hashlib.md5(extended, usedforsecurity=False).hexdigest().upper().encode()
    reference = b'<rdf:Description xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="%s"' % digest
    first = packet("x" * 64_900).replace(b"<rdf:Description", reference)
    second = b"http://ns.adobe.com/xmp/extension/\0" + digest + struct.pack(">II", len(extended), 0) + extended
    segments = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + first) + segment(0xE1, second)
    jpeg = (source / "plain.jpg").read_bytes()
    (folder / "two parts.jpg").write_bytes(jpeg[:2] + segments + jpeg[2:])
    rows, restored = there_and_back(folder, tmp_path, ladder=parse_ladder("ditic-small"))
    assert rows["full.jpg"].outcome is Outcome.ENCODED
    before, after = tags_of(folder), tags_of(restored)
    for tag in ("XMP-photoshop:Headline", "XMP-photoshop:Instructions"):
        assert after["full.jpg"][tag] == before["full.jpg"][tag]
    assert after["full.jpg"]["XMP-photoark:Codec"] == "ditic-small"
    assert rows["two parts.jpg"].outcome is Outcome.KEPT
    assert "cannot be joined" in (rows["two parts.jpg"].reason or "")
    assert (restored / "two parts.jpg").read_bytes() == (folder / "two parts.jpg").read_bytes()
