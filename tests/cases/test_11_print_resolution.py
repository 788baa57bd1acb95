"""The print resolution of scans comes back as it was, and goes into another container in that one's unit."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from pipeline.archive.reader import Archive, read_rows
from pipeline.decode.restore import restore
from pipeline.records import Outcome
from tests.cases.round_trip import there_and_back
from tests.cases.test_10_metadata_behind_pixels import chunk
from tests.exiftool import exiftool, tags_of

pytestmark = pytest.mark.usefixtures("ray_session")
TAGS = (
    "JFIF:ResolutionUnit", "JFIF:XResolution", "JFIF:YResolution", "PNG-pHYs:PixelUnits", "PNG-pHYs:PixelsPerUnitX",
    "PNG-pHYs:PixelsPerUnitY", "IFD0:ResolutionUnit", "IFD0:XResolution", "IFD0:YResolution",
)  # fmt: skip
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
JFIF = {"600 inch": (1, 600, 600), "236 cm": (2, 236, 118), "ratio": (0, 4, 3), "none": (0, 1, 1), "most": (1, 65535, 65535)}
PHYS = {"600 inch": (23622, 23622, 1), "odd": (3937, 7874, 1), "ratio": (4, 3, 0), "most": ((1 << 31) - 1, 1, 1)}


def resolution(tags: dict[str, object]) -> dict[str, object]:
    return {tag: tags[tag] for tag in TAGS if tag in tags}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    jpeg, png = io.BytesIO(), io.BytesIO()
    picture.save(jpeg, "JPEG")
    picture.save(png, "PNG")
    for name, (unit, x, y) in JFIF.items():
        (folder / f"{name}.jpg").write_bytes(jpeg.getvalue()[:13] + struct.pack(">BHH", unit, x, y) + jpeg.getvalue()[18:])
    for name, values in PHYS.items():
        added = chunk(b"pHYs", struct.pack(">IIB", *values))
        (folder / f"{name}.png").write_bytes(png.getvalue()[:33] + added + png.getvalue()[33:])
    (folder / "without.png").write_bytes(png.getvalue())
    picture.save(folder / "300 inch.tif", dpi=(300, 150))
    picture.save(folder / "118.11 cm.tif", tiffinfo={282: 118.11, 283: 118.11, 296: 3})
    (folder / "camera.jpg").write_bytes(jpeg.getvalue())
    exiftool(
        "-overwrite_original",
        "-EXIF:XResolution=72",
        "-EXIF:YResolution=72",
        "-EXIF:ResolutionUnit=inches",
        folder / "camera.jpg",
    )
    return folder


def test_resolution_comes_back_and_is_converted(source: Path, tmp_path: Path) -> None:
    rows, restored = there_and_back(source, tmp_path)
    assert {row.outcome for row in rows.values()} == {Outcome.ENCODED}
    assert rows["600 inch.jpg"].resolution == "600x600/inch"
    assert rows["236 cm.jpg"].resolution == "236x118/cm"
    assert rows["600 inch.png"].resolution == "23622x23622/m"
    assert rows["ratio.jpg"].resolution == rows["ratio.png"].resolution == "4x3"
    assert rows["300 inch.tif"].resolution == "300x150/inch"
    assert rows["without.png"].resolution is None
    before, after = tags_of(source), tags_of(restored)
    for name, tags in before.items():
        assert resolution(after[name]) == resolution(tags), name
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in before:
        for format in SUFFIXES:
            data = restore(str(tmp_path / "archive"), name, format=format).data
            (elsewhere / f"{name} as {format}{SUFFIXES[format]}").write_bytes(data)
    found = {name[:-4]: resolution(tags) for name, tags in tags_of(elsewhere).items()}
    per_metre = {"PNG-pHYs:PixelUnits": "meters", "PNG-pHYs:PixelsPerUnitX": 23622, "PNG-pHYs:PixelsPerUnitY": 23622}
    assert found["600 inch.jpg as PNG"] == per_metre
    per_inch = {"ResolutionUnit": "inches", "XResolution": 600, "YResolution": 600}
    assert found["600 inch.png as JPEG"] == {f"JFIF:{tag}": value for tag, value in per_inch.items()}
    assert found["600 inch.jpg as TIFF"] == {f"IFD0:{tag}": value for tag, value in per_inch.items()}
    assert found["236 cm.jpg as TIFF"] == {"IFD0:ResolutionUnit": "cm", "IFD0:XResolution": 236, "IFD0:YResolution": 118}
    assert found["236 cm.jpg as PNG"] == per_metre | {"PNG-pHYs:PixelsPerUnitX": 23600, "PNG-pHYs:PixelsPerUnitY": 11800}
    assert found["ratio.jpg as PNG"]["PNG-pHYs:PixelUnits"] == "Unknown"
    assert found["300 inch.tif as PNG"]["PNG-pHYs:PixelsPerUnitX"] == 11811
    assert found["300 inch.tif as PNG"]["PNG-pHYs:PixelsPerUnitY"] == 5906
    assert found["300 inch.tif as JPEG"]["JFIF:XResolution"] == 300
    assert found["118.11 cm.tif as JPEG"]["JFIF:XResolution"] == 118
    assert found["most.png as JPEG"]["JFIF:XResolution"] == 1  # more than it can say
    assert found["camera.jpg as TIFF"]["IFD0:XResolution"] == 72
    assert {row.key for row in read_rows(Archive.open(str(tmp_path / "archive")))} == before.keys()
