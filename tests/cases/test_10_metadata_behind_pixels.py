"""Metadata that stands behind the pixels of a file is read, whatever stands before them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipeline.records import Outcome
from tests.cases.round_trip import there_and_back
from tests.exiftool import exiftool, tags_of

pytestmark = pytest.mark.usefixtures("ray_session")
TITLE = "Grüße 漢字"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt><rdf:li xml:lang="x-default">'
    f"{TITLE}</rdf:li></rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
).encode()


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def xmp_text(kind: bytes) -> bytes:
    keyword = b"XML:com.adobe.xmp\0"
    if kind == b"zTXt":
        return chunk(kind, keyword + b"\0" + zlib.compress(XMP))
    return chunk(b"iTXt", keyword + (b"\1\0\0\0" + zlib.compress(XMP) if kind == b"compressed" else b"\0\0\0\0" + XMP))


def raw_profile(name: str, block: bytes) -> bytes:
    return chunk(b"tEXt", f"Raw profile type {name}\0\n{name}\n{len(block):8}\n{block.hex()}\n".encode())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    plain = io.BytesIO()
    picture.save(plain, "PNG")
    png, end = plain.getvalue()[:-12], plain.getvalue()[-12:]
    exif = Image.Exif()
    exif[0x010F] = "Acme"
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    iptc = b"\x1c\x02\x78\0\5hello"
    eXIf = chunk(b"eXIf", block)
    head, pixels = png[:33], png[33:]
    files = {
        "xmp behind, exif before.png": head + eXIf + pixels + xmp_text(b"iTXt") + end,
        "xmp compressed behind, exif before.png": head + eXIf + pixels + xmp_text(b"compressed") + end,
        "all behind.png": png + eXIf + xmp_text(b"iTXt") + raw_profile("iptc", iptc) + end,
        "iptc behind.png": head + eXIf + xmp_text(b"iTXt") + pixels + raw_profile("iptc", iptc) + end,
        "exif as a profile behind.png": head + xmp_text(b"iTXt") + pixels + raw_profile("exif", b"Exif\0\0" + block) + end,
        "bad checksum behind.png": head + eXIf + pixels + xmp_text(b"iTXt")[:-4] + b"oops" + end,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    picture.save(folder / "plain.webp")
    webp = (folder / "plain.webp").read_bytes()
    blocks = b"".join(
        kind + struct.pack("<I", len(b)) + b + bytes(len(b) & 1) for kind, b in ((b"EXIF", block), (b"XMP ", XMP))
    )
    (folder / "not announced.webp").write_bytes(b"RIFF" + struct.pack("<I", len(webp) - 8 + len(blocks)) + webp[8:] + blocks)
    return folder


def test_what_stands_behind_the_pixels_comes_back(source: Path, tmp_path: Path) -> None:
    rows, restored = there_and_back(source, tmp_path)
    assert {row.outcome for row in rows.values()} == {Outcome.ENCODED}
    before, after = tags_of(source), tags_of(restored)
    for name, tags in after.items():
        if name == "plain.webp":
            continue
        assert before[name]["IFD0:Make"] == tags["IFD0:Make"] == "Acme", name
        # exiftool, too, goes by the bytes and not by the checksum.
        assert before[name]["XMP-dc:Title"] == tags["XMP-dc:Title"] == TITLE, name
        if "iptc" in name or "all" in name:
            assert before[name]["IPTC:Caption-Abstract"] == tags["IPTC:Caption-Abstract"] == "hello", name
        assert rows[name].xmp == XMP
    assert "after PNG IDAT" not in exiftool("-Warning", restored)  # they stand where all readers look
