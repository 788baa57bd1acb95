"""What exiftool no longer finds in a restored file is what the README says is lost, and nothing else."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from pipeline.pixels.formats import dropped
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.formats.writer import write_photo
from tests.exiftool import exiftool, tags_of
from tests.pipeline.test_metadata import IPTC, TAGS

NAMES = {"a.jpg": "JPEG", "b.png": "PNG", "c.webp": "WebP", "d.tif": "TIFF", "e.heic": "HEIC, AVIF", "f.avif": "HEIC, AVIF"}
LOST = {
    "comments": r"File:Comment",
    "JFIF's own thumbnails": r"JFXX:",
    "notes of encoders (Adobe_CM, AVI1, the quality of Ducky and GraphicConverter)": r"Ducky:|AdobeCM:",
    "Scalado's index": r"Scalado:",
    "Photoshop's settings for print and screen, guides, slices, thumbnail, copyright flag and URL": r"Photoshop:(?!Photoshop_)",
    "resources of ImageReady and PhotoDeluxe": r"Photoshop:Photoshop_0x07d0|Photoshop:Photoshop_Unknown_0x07d0",
    "Samsung's trailer, if it says no more than time, country, colours and mode of the camera": r"Samsung:",
    "texts other than XMP": r"PNG:(Title|Author|Comment|Software|Artist|Copyright)$",
    "tIME, bKGD, hIST, sPLT, sBIT, oFFs, vpAg, caNv and iDOT": r"PNG:(ModifyDate|BackgroundColor|SignificantBits|ImageOffset|"
    r"VirtualImage\w+|VirtualPage\w+|PNG_\w+|.*iDOT.*|AppleDataOffsets|CanvasSize)|PNG-\w+:Virtual|PNG-caNv:",
    "gAMA, cHRM and sRGB, if they say sRGB or stand beside an ICC profile": r"PNG:(Gamma|SRGBRendering)$|"
    r"PNG(-cHRM)?:\w+(Point|Red|Green|Blue)[XY]$|PNG(-cHRM)?:(Red|Green|Blue)[XY]$",
}
"""Part of the list -> the tags that exiftool has for it."""
UNSEEN = {*dropped.PADDING, *dropped.REPLACED, *dropped.HEIF_REFERENCES, *dropped.INVALID_RESOLUTION}
"""Parts for which it has none."""
OF_THE_PIXELS = re.compile(
    r"SourceFile|ExifTool:|System:|File:(?!Comment)|QuickTime:|Meta:|RIFF:|Composite:|JFIF:JFIFVersion|PNG:(Filter|Interlace|BitDepth)"
    r"|IFD0:(Compression|Strip\w+|RowsPerStrip|Predictor|PlanarConfiguration|FillOrder|Photometric\w+)|APP14:"
)
"""How the picture is coded, and where it lies in the file."""
PHOTOSHOP = [
    "-Photoshop:URL=http://example.org/", "-Photoshop:CopyrightFlag=1", "-Photoshop:GlobalAngle=30",
    "-Photoshop:XResolution=300", "-Photoshop:YResolution=300", "-Photoshop:PrintStyle=Centered",
]  # fmt: skip
OF_JPEG = [
    "-Comment=a comment", "-Ducky:Quality=60", "-JFIF:XResolution=300", "-JFIF:YResolution=300",
    "-JFIF:ResolutionUnit=inches",
]  # fmt: skip
OF_PNG = [
    "-PNG:Title=a title", "-PNG:Author=an author", "-PNG:Comment=a comment", "-PNG:Software=a program",
    "-PNG:ModifyDate=2024:05:06 07:08:09", "-PNG-pHYs:PixelsPerUnitX=3937", "-PNG-pHYs:PixelsPerUnitY=3937",
    "-PNG-pHYs:PixelUnits=meters", "-PNG:Gamma=2.2", "-PNG:SRGBRendering=Perceptual",
]  # fmt: skip


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def samsung_trailer() -> bytes:
    name, value = b"Image_UTC_Data", b"1600000000000"
    record = struct.pack("<HHI", 0, 0x0A01, len(name)) + name + value
    head = b"SEFH" + struct.pack("<II", 107, 1) + struct.pack("<HHII", 0, 0x0A01, len(record), len(record))
    return record + head + struct.pack("<I", len(head)) + b"SEFT"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each container with all kinds of metadata that exiftool or we can write and that a codec may take."""
    folder = tmp_path_factory.mktemp("source")
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in NAMES:
        picture.save(folder / name, icc_profile=icc)
    exiftool("-overwrite_original", *TAGS, *(folder / name for name in NAMES))
    exiftool("-overwrite_original", *IPTC, *(folder / name for name in ("a.jpg", "b.png", "d.tif")))
    exiftool("-overwrite_original", *PHOTOSHOP, *OF_JPEG, folder / "a.jpg")
    exiftool("-overwrite_original", *PHOTOSHOP, folder / "d.tif")
    exiftool("-overwrite_original", *OF_PNG, folder / "b.png")
    thumbnail = io.BytesIO()
    picture.resize((24, 16)).save(thumbnail, "JPEG")
    of_image_ready = b"PHUT" + struct.pack(">HHI", 2000, 0, 4) + b"abcd"
    jpeg, png = (folder / "a.jpg").read_bytes(), (folder / "b.png").read_bytes()
    behind_jfif = 4 + struct.unpack_from(">H", jpeg, 4)[0]
    segments = (
        segment(0xE0, b"JFXX\0\x10" + thumbnail.getvalue()),
        segment(0xED, b"Adobe_CM\0\2"),
        segment(0xE4, b"SCALADO\0" + struct.pack(">HHI4sII4sIi", 1, 0, 24, b"SPMO", 5, 12, b"WDTH", 1, -96)),
        segment(0xED, b"Photoshop 3.0\0" + of_image_ready),
    )
    (folder / "a.jpg").write_bytes(jpeg[:behind_jfif] + b"".join(segments) + jpeg[behind_jfif:] + samsung_trailer())
    chunks = (
        chunk(b"bKGD", struct.pack(">3H", 255, 255, 255)),
        chunk(b"sBIT", bytes([5, 6, 5])),
        chunk(b"oFFs", struct.pack(">iiB", 10, 20, 0)),
        chunk(b"vpAg", struct.pack(">IIB", 96, 64, 0)),
        chunk(b"caNv", struct.pack(">4i", 96, 64, 0, 0)),
        chunk(b"iDOT", bytes(28)),
        chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    )
    (folder / "b.png").write_bytes(png[:33] + b"".join(chunks) + png[33:])
    return folder


def test_what_vanishes_is_what_the_list_says(source: Path, tmp_path: Path) -> None:
    for name in NAMES:
        data = (source / name).read_bytes()
        header = probe(data)
        assert header.unsupported is None, (name, header.unsupported)
        again = write_photo(
            read_pixels(data, header),
            format=header.format,
            mode=header.mode,
            metadata=header.metadata,
            orientation=header.orientation,
        )
        (tmp_path / name).write_bytes(again)
    before, after = tags_of(source), tags_of(tmp_path)
    for name, container in NAMES.items():
        listed = {part for part in dropped.README_LIST[container] if part not in UNSEEN}
        vanished = [tag for tag in before[name] if tag not in after[name] and not OF_THE_PIXELS.match(tag)]
        parts = {tag: next((part for part in listed if re.match(LOST[part], tag)), None) for tag in vanished}
        assert None not in parts.values(), (name, [tag for tag, part in parts.items() if part is None])
        # Nothing is in the list that comes back. TIFF and PNG have Photoshop's block too; the JPEG shows it.
        shown = {part for part in parts.values() if part}
        assert container != "JPEG" or shown == listed, (name, listed - shown)
        assert container != "PNG" or shown >= listed - {*dropped.PHOTOSHOP_RESOURCES, *dropped.OTHER_RESOURCES}
        for tag, value in before[name].items():
            if tag in after[name] and not OF_THE_PIXELS.match(tag) and tag != "IFD0:Orientation":
                assert after[name][tag] == value, (name, tag)
