"""What is in a file beside its pixels comes back: written and read by exiftool, in every container."""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import Archive, read_rows
from pipeline.codecs.container_check import check_container
from pipeline.codecs.points import parse_ladder
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import restore
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.errors import SettingError
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.formats.writer import write_photo
from pipeline.pixels.gps import exif_without_gps, may_hold_gps
from pipeline.pixels.metadata.xmp import ENHANCED, marked
from pipeline.records import KeepOriginal, Outcome, PhotoMetadata
from tests.exiftool import exiftool, tags_of

pytestmark = pytest.mark.usefixtures("ray_session")

PHOTOS = Path(__file__).parents[1] / "photos"
FORMATS = {"a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WEBP", "d.tif": "TIFF", "e.heic": "HEIF", "f.avif": "AVIF"}
TURNED = ("JPEG", "PNG", "WEBP", "TIFF")
MAKER_NOTE = b"ACMEMAKER\0" + bytes(range(1, 201))
TAGS = [
    "-GPSLatitude=48.2", "-GPSLatitudeRef=N", "-GPSLongitude=16.3", "-GPSLongitudeRef=E", "-GPSAltitude=171", "-Orientation#=6",
    "-Artist=Someone", "-Copyright=(c) Someone", "-ImageDescription=Wein, schön", "-UserComment=hello", "-LensModel=L",
    "-ISO=200", "-XPTitle=title", "-XMP-dc:Title=Title", "-XMP-dc:Subject=a", "-XMP-dc:Subject=b",
    "-XMP-xmp:CreatorTool=A tool", "-XMP-exif:GPSLatitude=48.2", "-XMP-xmp:Rating=4",
]  # fmt: skip
IPTC = ["-IPTC:Keywords=one", "-IPTC:Keywords=two", "-IPTC:Caption-Abstract=Caption ü", "-IPTC:CodedCharacterSet=UTF8"]
# What describes the file and not the photo: where things lie in it, and how its pixels are compressed.
OF_THE_FILE = re.compile(
    r"SourceFile|ExifTool:|System:|File:|JFIF:|QuickTime:|Meta:|RIFF:|PNG:(?!Raw)|PNG-|Composite:"
    r"|IFD0:(Compression|Strip\w+|RowsPerStrip|Predictor|PlanarConfiguration|FillOrder|Photometric\w+)"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One photo in six containers, each with all that it can hold."""
    folder = tmp_path_factory.mktemp("source")
    with Image.open(PHOTOS / "wine.jpg") as wine:
        photo, profile = wine.convert("RGB").resize((240, 180)), wine.info["icc_profile"]
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Acme", "One"
    exif.get_ifd(0x8769).update({0x927C: MAKER_NOTE, 0x9003: "2024:05:06 07:08:09", 0x9011: "+02:00", 0x829D: 2.8})
    for name, format in FORMATS.items():
        photo.save(folder / name, format, icc_profile=profile, **({} if format == "TIFF" else {"exif": exif.tobytes()}))
    exiftool("-overwrite_original", "-tagsFromFile", folder / "a.jpg", "-EXIF:all", "-MakerNotes", folder / "d.tif")
    exiftool("-overwrite_original", *TAGS, *(folder / name for name in FORMATS))
    exiftool("-overwrite_original", *IPTC, *(folder / name for name in ("a.jpg", "b.png", "d.tif")))
    for i, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, ns=(0, 1_600_000_000_123_456_000 + i * 1_000_000_000))
    return folder


def described(folder: Path) -> dict[str, dict[str, object]]:
    return {
        name: {tag: value for tag, value in tags.items() if not OF_THE_FILE.match(tag)}
        for name, tags in tags_of(folder).items()
    }


def test_every_tag_of_every_container_comes_back_and_says_which_model_made_the_pixels(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"))
    assert encode(job).num_encoded == len(FORMATS)
    report = verify(Archive.open(job.archive), check=check_container)
    assert report.is_clean, report.damages
    assert decode(DecodeJob(archive=job.archive, destination=str(tmp_path / "restored"))).num_failed == 0
    (model,) = {row.model for row in read_rows(Archive.open(job.archive))}
    before, after = described(source), described(tmp_path / "restored")
    assert after.keys() == before.keys() == FORMATS.keys()
    for name, tags in before.items():
        groups = {tag.partition(":")[0] for tag in tags}
        assert {"IFD0", "ExifIFD", "GPS", "XMP-dc", "XMP-exif", "ICC_Profile", "ICC-header"} <= groups, name
        assert ("IPTC" in groups) == (name in ("a.jpg", "b.png", "d.tif"))
        if FORMATS[name] not in TURNED:
            # Which way is up, the container says: pixels come back upright, and EXIF must not turn them again.
            assert after[name].pop("IFD0:Orientation") == "Horizontal (normal)"
            assert tags.pop("IFD0:Orientation") == "Rotate 90 CW"
        assert after[name].pop("XMP-iptcExt:DigitalSourceType") == ENHANCED
        assert (after[name].pop("XMP-photoark:Codec"), after[name].pop("XMP-photoark:Model")) == ("ditic-small", model)
        assert after[name] == tags, name
        original, back = (source / name).stat(), (tmp_path / "restored" / name).stat()
        assert abs(back.st_mtime_ns - original.st_mtime_ns) < 1000
        data, restored = (source / name).read_bytes(), (tmp_path / "restored" / name).read_bytes()
        assert MAKER_NOTE in restored
        assert probe(restored).metadata.icc == probe(data).metadata.icc
        if FORMATS[name] in TURNED:
            assert probe(restored).metadata.exif == probe(data).metadata.exif
            assert Image.open(io.BytesIO(restored)).size == Image.open(io.BytesIO(data)).size
        assert np.abs(read_pixels(restored).astype(int) - read_pixels(data)).mean() < 8


@pytest.mark.parametrize(
    "packet",
    [
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<r:Description r:about="uuid:1" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        b'e:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"/></r:RDF></x:xmpmeta>',
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        b"<Iptc4xmpExt:DigitalSourceType>http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
        b"</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>",
        b"no XMP at all",
        None,
    ],
)
def test_a_digital_source_type_that_is_there_gives_way(packet: bytes | None, tmp_path: Path) -> None:
    data = write_photo(
        np.zeros((8, 8, 3), np.uint8),
        format="JPEG",
        mode="RGB",
        metadata=PhotoMetadata(xmp=marked(packet, codec="ditic", model="0123456789abcdef")),
    )
    (tmp_path / "a.jpg").write_bytes(data)
    tags = tags_of(tmp_path)["a.jpg"]
    assert tags["XMP-iptcExt:DigitalSourceType"].endswith("/algorithmicallyEnhanced")
    assert tags["XMP-photoark:Model"] == "0123456789abcdef"
    assert "Warning" not in " ".join(tags)


def test_gps_data_is_left_out_and_where_it_cannot_be_the_row_says_so(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    clear = Image.new("RGBA", (20, 20))
    clear.save(folder / "clear.png")
    clear.save(folder / "clear here.png")
    exiftool("-overwrite_original", *TAGS, folder / "clear here.png")
    (folder / "a.MOV").write_bytes(b"\0\0\0\x14ftypqt  \0\0\0\0qt  ")
    (folder / "x.dng").write_bytes(b"II*\0 a raw file")
    job = EncodeJob(source=str(folder), archive=str(tmp_path / "archive"), ladder=parse_ladder("webp:50"), strip_gps=True)
    encode(job)
    rows = {row.key: row for row in read_rows(Archive.open(job.archive))}
    assert rows["clear.png"].outcome is Outcome.KEPT
    for key in ("clear here.png", "a.MOV", "x.dng"):
        assert (rows[key].outcome, rows[key].image) == (Outcome.FAILED, None)
        assert "--strip-gps" in (rows[key].reason or "")
    restored = tmp_path / "restored"
    restored.mkdir()
    for name in FORMATS:
        (restored / name).write_bytes(restore(job.archive, name).data)
    before, after = described(source), described(restored)
    for name, tags in after.items():
        assert not [tag for tag in tags if "GPS" in tag]
        kept = {tag: value for tag, value in before[name].items() if "GPS" not in tag and tag != "IFD0:Orientation"}
        tags.pop("IFD0:Orientation")
        assert tags == kept  # and no mark: a classical codec made the pixels
    assert b"GPS" not in b"".join((row.exif or b"") + (row.xmp or b"") for row in rows.values())
    with pytest.raises(SettingError, match="--strip-gps"):
        EncodeJob(source=str(folder), archive=job.archive, strip_gps=True, keep_original=KeepOriginal.ALWAYS)


def test_no_byte_of_a_position_is_left_and_nothing_else_moves(source: Path) -> None:
    block = probe((source / "a.jpg").read_bytes()).metadata.exif
    assert block is not None
    stripped = exif_without_gps(block)
    assert stripped is not None
    assert len(stripped) == len(block)
    assert stripped.index(MAKER_NOTE) == block.index(MAKER_NOTE)
    assert exif_without_gps(stripped) == stripped
    latitude = struct.pack(">2I", 48, 1)  # of the degrees
    assert latitude in block
    assert latitude not in stripped
    assert exif_without_gps(b"no EXIF") is None
    many = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + 5000 * struct.pack("<HHII", 0x8825, 4, 1, 8) + bytes(4)
    cleaned = exif_without_gps(many)
    assert cleaned is not None
    assert len(cleaned) == len(many)
    assert not may_hold_gps(cleaned)


def test_companions_and_raw_files_are_kept_with_their_photo(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    files = {
        "IMG_1.HEIC": photo_files["life.heic"], "IMG_1.MOV": b"film", "IMG_1.AAE": b"edit", "IMG_1.HEIC.xmp": b"sidecar",
        "alone.mov": b"film", "raw.NEF": photo_files["seeding.tiff"], "raw.raf": b"FUJIFILMCCD-RAW ", "empty.dng": b"",
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    job = EncodeJob(source=str(folder), archive=str(tmp_path / "archive"), codec="webp")
    encode(job)
    rows = {row.key: row for row in read_rows(Archive.open(job.archive))}
    assert rows["IMG_1.HEIC"].outcome is Outcome.ENCODED
    for name in ("IMG_1.MOV", "IMG_1.AAE", "IMG_1.HEIC.xmp"):
        assert (rows[name].outcome, rows[name].image) == (Outcome.KEPT, files[name])
        assert "belongs to IMG_1.HEIC" in (rows[name].reason or "")
    for name in ("raw.NEF", "raw.raf"):
        assert (rows[name].outcome, rows[name].image) == (Outcome.KEPT, files[name])
        assert "raw file" in (rows[name].reason or "")
    assert (rows["alone.mov"].outcome, rows["alone.mov"].image) == (Outcome.KEPT, b"film")
    assert {key for key, row in rows.items() if row.outcome is Outcome.FAILED} == {"empty.dng"}
