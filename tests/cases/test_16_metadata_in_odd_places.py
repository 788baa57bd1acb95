"""EXIF, XMP, ICC and IPTC come back from the odd places in which exiftool finds them too."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.pixels.formats.reader import read_pixels
from pipeline.records import Outcome
from tests.cases.round_trip import there_and_back
from tests.cases.test_10_metadata_behind_pixels import TITLE, XMP, raw_profile
from tests.exiftool import tags_of

pytestmark = pytest.mark.usefixtures("ray_session")
IPTC = b"\x1c\x02\x78\0\5hello"
EXIF = b"Exif\0\0"
APP1_XMP = b"http://ns.adobe.com/xap/1.0/\0"


def resource(signature: bytes, kind: int, data: bytes, name: bytes = b"\0\0") -> bytes:
    return signature + struct.pack(">H", kind) + name + struct.pack(">I", len(data)) + data + bytes(len(data) & 1)


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpegs(jpeg: bytes) -> Iterator[tuple[str, bytes]]:
    iptc = resource(b"8BIM", 0x0404, IPTC)
    for signature in (b"AgHg", b"PHUT", b"DCSR", b"MeSa"):
        resources = resource(signature, 0x07D0, b"abc", b"\4name\0") + iptc
        yield f"iptc after {signature.decode()}.jpg", jpeg[:2] + segment(0xED, b"Photoshop 3.0\0" + resources) + jpeg[2:]
    two = segment(0xED, b"Photoshop 3.0\0" + iptc[:10]) + segment(0xED, b"Photoshop 3.0\0" + iptc[10:])
    yield "iptc in two segments.jpg", jpeg[:2] + two + jpeg[2:]


def pngs(png: bytes, exif: bytes, icc: bytes) -> Iterator[tuple[str, bytes]]:
    profiles = {
        "exif in APP1": [("APP1", EXIF + exif)],
        "exif in exif": [("exif", EXIF + exif)],
        "exif without its header": [("exif", exif)],
        "xmp in APP1": [("APP1", APP1_XMP + XMP)],
        "xmp in xmp": [("xmp", XMP)],
        "icc in icc": [("icc", icc)],
        "icc in icm": [("icm", icc)],
        "iptc in iptc": [("iptc", IPTC)],
        "iptc in iptc, as a resource": [("iptc", resource(b"8BIM", 0x0404, IPTC))],
        "iptc in 8bim": [("8bim", resource(b"AgHg", 0x07D0, b"abc") + resource(b"8BIM", 0x0404, IPTC))],
        "exif, icc, xmp, iptc": [("exif", EXIF + exif), ("icc", icc), ("xmp", XMP), ("iptc", IPTC)],
    }
    for name, texts in profiles.items():
        yield f"{name}.png", png[:33] + b"".join(raw_profile(*text) for text in texts) + png[33:]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Acme", 6
    buffers = {format: io.BytesIO() for format in ("JPEG", "PNG")}
    for format, buffer in buffers.items():
        picture.save(buffer, format)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    block = exif.tobytes().removeprefix(EXIF)
    for name, data in (*jpegs(buffers["JPEG"].getvalue()), *pngs(buffers["PNG"].getvalue(), block, icc)):
        (folder / name).write_bytes(data)
    picture.save(folder / "iptc in tag 34377.tif", tiffinfo={34377: resource(b"8BIM", 0x0404, IPTC)})
    return folder


def test_each_kind_comes_back_to_where_readers_look(source: Path, tmp_path: Path) -> None:
    rows, restored = there_and_back(source, tmp_path)
    assert {row.outcome for row in rows.values()} == {Outcome.ENCODED}
    before, after = tags_of(source), tags_of(restored)
    assert before.keys() == after.keys()
    expected = {
        "exif": ("IFD0:Make", "Acme"),
        "xmp": ("XMP-dc:Title", TITLE),
        "icc": ("ICC_Profile:ProfileDescription", "sRGB built-in"),
        "iptc": ("IPTC:Caption-Abstract", "hello"),
    }
    for name, tags in after.items():
        kinds = [kind for kind in expected if re.match(rf"\b{kind}\b", name)]
        if name.startswith("exif, "):
            kinds = list(expected)
        assert kinds, name
        for kind in kinds:
            tag, value = expected[kind]
            # What Photoshop's block of a TIFF holds is not in the standard place, so exiftool numbers its group.
            assert value in (before[name].get(tag), before[name].get(tag.replace("IPTC", "IPTC2"))), (name, before[name])
            assert tags[tag] == value, name
        if "exif" in kinds:
            assert tags["IFD0:Orientation"] == before[name]["IFD0:Orientation"] == "Rotate 90 CW"
            assert (rows[name].orientation, rows[name].width, rows[name].height) == (6, 64, 96)
            data, again = (source / name).read_bytes(), (restored / name).read_bytes()
            assert Image.open(io.BytesIO(again)).size == Image.open(io.BytesIO(data)).size == (96, 64)
            assert np.abs(read_pixels(again).astype(int) - read_pixels(data)).mean() < 4
