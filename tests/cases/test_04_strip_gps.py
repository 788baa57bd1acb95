"""--strip-gps leaves no position behind, whatever vocabulary it is in, or no file: exiftool looks for them."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from pipeline.pixels.formats.jpeg_segments import extended_xmp_segments
from pipeline.pixels.metadata import xmp_positions
from pipeline.pixels.metadata.xmp import divided
from pipeline.records import Outcome
from tests.cases.round_trip import there_and_back
from tests.cases.test_10_metadata_behind_pixels import chunk, raw_profile
from tests.cases.test_16_metadata_in_odd_places import segment
from tests.exiftool import exiftool, tags_of

pytestmark = pytest.mark.usefixtures("ray_session")

# All that exiftool can write: of a public square.
WRITABLE = [
    "-GPSLatitude=48.137154", "-GPSLatitudeRef=N", "-GPSLongitude=11.576124", "-GPSLongitudeRef=E", "-GPSAltitude=519",
    "-XMP-exif:GPSLatitude=48.137154", "-XMP-exif:GPSLongitude=11.576124", "-XMP-exif:GPSAltitude=519",
    "-XMP-exif:GPSDestLatitude=48.137154", "-XMP-exif:GPSDestLongitude=11.576124", "-XMP-exif:GPSMapDatum=WGS-84",
    "-XMP-drone-dji:GPSLatitude=48.137154", "-XMP-drone-dji:GPSLongitude=11.576124", "-XMP-drone-dji:GPSLongtitude=11.576124",
    "-XMP-drone-dji:Latitude=48.137154", "-XMP-drone-dji:Longitude=11.576124", "-XMP-drone-dji:AbsoluteAltitude=519",
    "-XMP-drone-dji:RelativeAltitude=+12", "-XMP-drone-dji:RtkStdLat=0.01", "-XMP-drone-dji:RtkStdLon=0.01",
    "-XMP-iptcExt:LocationCreatedGPSLatitude=48.137154", "-XMP-iptcExt:LocationCreatedGPSLongitude=11.576124",
    "-XMP-iptcExt:LocationCreatedCity=München", "-XMP-iptcExt:LocationShownGPSLatitude=48.137154",
    "-XMP-iptcExt:LocationShownGPSLongitude=11.576124", "-XMP-iptcExt:LocationShownGPSAltitude=519",
    "-XMP-iptcExt:LocationCreatedLocationId=geo:48.137154,11.576124", "-XMP-dwc:DCTermsLocation={DecimalLatitude=48.137154,"
    "DecimalLongitude=11.576124,VerbatimCoordinates=48.137154 11.576124,FootprintWKT=POINT (11.576124 48.137154),"
    "MinimumElevationInMeters=519,Locality=Marienplatz}", "-XMP-cell:CellTowerID=48137154", "-XMP-cell:LocationAreaCode=11",
    "-XMP-Device:EarthPosLatitude=48.137154", "-XMP-Device:EarthPosLongitude=11.576124", "-XMP-photoshop:City=München",
]  # fmt: skip
STAYS = [
    "-Artist=Someone", "-ImageDescription=longitude and latitude", "-XMP-dc:Title=Latitude 48",
    "-XMP-iptcCore:Location=Marienplatz",
    "-XMP-iptcCore:AltTextAccessibility=a square", "-XMP-exifEX:ISOSpeedLatitudeyyy=3", "-XMP-drone-dji:GimbalYawDegree=+17.5",
    "-XMP-photoshop:AuthorsPosition=photographer", "-XMP-xmp:Rating=4", "-Orientation#=1",
]  # fmt: skip
# What others write, in element form, in attributes, with other prefixes and in structures.
BY_OTHERS = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:parrot="http://www.parrot.com/drone-parrot/1.0/" xmlns:g="http://www.w3.org/2003/01/geo/wgs84_pos#"'
    b' xmlns:Camera="http://pix4d.com/camera/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:e="http://ns.adobe.com/exif/1.0/"'
    b' xmlns:drone="http://www.dji.com/drone-dji/1.0/" xmlns:rs="http://www.georss.org/georss" xmlns:gml="http://www.opengis.net/gml"'
    b' xmlns:own="http://example.org/own/" parrot:GPSLATITUDE="48.137154" Camera:GPSXYAccuracy = \'1.5\' g:lat="48.137154"'
    b' drone:LRFTargetLat="48.137154" drone:LRFTargetLon="11.576124" drone:LRFTargetAbsAlt="519" drone:GimbalPitchDegree="-90"'
    b' own:Position_lat_lon="48.137154 11.576124" own:gpslatitude="48.137154">'
    b'<g:long>11.576124</g:long><g:alt rdf:datatype="x">519</g:alt><rs:point>48.137154 11.576124</rs:point>'
    b"<rs:where><gml:Point><gml:pos>48.137154 11.576124</gml:pos></gml:Point></rs:where>"
    b'<own:Place rdf:parseType="Resource"><own:Longitude>11.576124</own:Longitude><own:name>square &gt; circle</own:name>'
    b"</own:Place>"
    b'<e:GPSLatitude/><drone:GpsLongitude\n>11.576124</drone:GpsLongitude ><own:Empty own:Latitude="48.137154"/>'
    b'<own:Nested><rdf:Description e:GPSLongitude="11,34.567E"><own:colour>red</own:colour></rdf:Description></own:Nested>'
    b"<dc:subject><rdf:Bag><rdf:li>square</rdf:li><rdf:li>geo:lat=48.137154</rdf:li><rdf:li>geo:long=11.576124</rdf:li></rdf:Bag>"
    b'</dc:subject><dc:title><rdf:Alt><rdf:li xml:lang="x-default">a title</rdf:li></rdf:Alt></dc:title>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
A_POSITION = re.compile(
    r"gps(?!\w*version)|latitude|longitude|longtitude|altitude|coordinate|elevation|wkt|cell|lat$|lon$|point|geo"
)
HARMLESS = re.compile(r"XMP-exifEX:ISOSpeedLatitude|File:|ExifTool:")


def positions(tags: dict[str, object]) -> list[str]:
    return [
        f"{tag}={value}"
        for tag, value in tags.items()
        if not HARMLESS.match(tag)
        and (A_POSITION.search(tag.lower()) or re.search(r"48[.,]?\s?(?:1|8)\d|11[.,]?\s?(?:5|34)\d", str(value)))
    ]


def saved(picture: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    names = ["a.jpg", "b.png", "c.webp", "d.tif", "e.heic", "f.avif"]
    for name in names:
        picture.save(folder / name)
    exiftool("-overwrite_original", *WRITABLE, *STAYS, *(folder / name for name in names))
    for name in ("a.jpg", "c.webp", "e.heic", "f.avif"):
        picture.save(folder / f"by others {name}", xmp=BY_OTHERS)
    picture.save(folder / "by others d.tif", tiffinfo={700: BY_OTHERS, 33922: (0.0, 0.0, 0.0, 11.576124, 48.137154, 0.0)})
    long = BY_OTHERS.replace(b"<dc:subject>", b"<own:text>" + b"long " * 20_000 + b"</own:text><dc:subject>")
    for name, packet in (("b.png", BY_OTHERS), ("long.png", long)):
        png, added = saved(picture, "PNG"), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
        (folder / f"by others {name}").write_bytes(png[:33] + added + png[33:])
    first, second = divided(long) or (b"", b"")
    digest = hashlib.md5(second, usedforsecurity=False).hexdigest().upper().encode()
    both = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + first) + extended_xmp_segments(second, digest)
    jpeg = saved(picture, "JPEG")
    (folder / "by others long.jpg").write_bytes(jpeg[:2] + both + jpeg[2:])
    exiftool("-overwrite_original", "-IPTC:Keywords=square", "-IPTC:Keywords=geo:lat=48.137154", folder / "a.jpg")
    # Kept for their palette, whatever they hold.
    palette = picture.quantize(16)
    palette.save(folder / "kept clean.png", xmp=b"<x/>")
    palette.save(folder / "kept.png")
    exiftool("-overwrite_original", "-XMP-drone-dji:GPSLatitude=48.137154", folder / "kept.png")
    png = saved(palette, "PNG")
    gps = Image.Exif()
    gps.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 13.0)})
    kept = {
        "others": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + BY_OTHERS),
        "compressed": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(BY_OTHERS)),
        "w3c": chunk(
            b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x xmlns:g="http://www.w3.org/2003/01/geo/wgs84_pos#" g:lat="48"/>'
        ),
        "utf-16": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + BY_OTHERS.decode().encode("utf-16")),
        "text": chunk(b"tEXt", b"exif:GPSLatitude\x0048/1, 8/1, 13/1"),
        "profile": raw_profile("exif", gps.tobytes()),
        "profile of xmp": raw_profile("xmp", BY_OTHERS),
    }
    for name, added in kept.items():
        (folder / f"kept {name}.png").write_bytes(png[:33] + added + png[33:])
    # What cannot be read may hold anything.
    thumbnail = Image.Exif()
    thumbnail[0x0112] = 1
    bad = {
        "bad xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + BY_OTHERS[:-10]),
        "bad exif": segment(0xE1, b"Exif\0\0" + b"garbage, and a good deal of it"),
        "gps in a thumbnail": segment(0xE1, thumbnail.tobytes() + struct.pack("<HHII", 0x8825, 4, 1, 8)),
    }
    for name, added in bad.items():
        (folder / f"{name}.jpg").write_bytes(jpeg[:2] + added + jpeg[2:])
    return folder


def test_exiftool_finds_no_position_in_any_restored_file(source: Path, tmp_path: Path) -> None:
    rows, restored = there_and_back(source, tmp_path, strip_gps=True)
    before, after = tags_of(source), tags_of(restored)
    for name, tags in before.items():
        if not name.startswith(("kept", "bad", "gps in")):
            assert positions(tags), name
    failed = {key for key, row in rows.items() if row.outcome is Outcome.FAILED}
    assert failed == {key for key in rows if key.startswith(("kept", "bad", "gps in"))} - {"kept clean.png"}
    assert all("--strip-gps" in (rows[key].reason or "") for key in failed)
    assert after.keys() == rows.keys() - failed
    for name, tags in after.items():
        assert not positions(tags), name
        assert not re.search(rb"48\.137|11\.576|geo:l", (restored / name).read_bytes()), name
        if name in ("a.jpg", "b.png", "c.webp", "d.tif"):
            stays = [tag for tag in before[name] if tag.startswith(("XMP-dc", "XMP-iptcCore:", "XMP-photoshop:"))]
            for tag in (*stays, "IFD0:Artist", "IFD0:ImageDescription", "XMP-xmp:Rating"):
                assert tags[tag] == before[name][tag], (name, tag)
            assert tags["XMP-exifEX:ISOSpeedLatitudeyyy"] == 3
            assert tags["XMP-iptcExt:LocationCreatedCity"] == tags["XMP-photoshop:City"] == "München"
            assert tags["XMP-drone-dji:GimbalYawDegree"] == "+17.5"
            assert tags["XMP-iptcCore:AltTextAccessibility"] == "a square"
            assert tags["XMP-dwc:DCLocality"] == "Marienplatz"
        if name.startswith("by others"):
            assert tags["XMP-dc:Subject"] == "square"
            assert tags["XMP-dc:Title"] == "a title"
            assert tags["XMP-own:PlaceName"] == "square > circle"
            assert tags["XMP-drone-dji:GimbalPitchDegree"] in ("-90", -90)
    assert after["a.jpg"]["IPTC:Keywords"] == "square"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPSLatitude", True), ("GpsLongtitude", True), ("gpslongitude", True), ("lat", True), ("Long", True),
        ("lat_long", True),
        ("LRFTargetAlt", True), ("decimalLatitude", True), ("verbatimCoordinates", True), ("minimumElevationInMeters", True),
        ("ISOSpeedLatitudeyyy", False), ("CameraElevationAngle", False), ("AltTextAccessibility", False), ("City", False),
        ("Flat", False), ("LongDescription", False), ("Salt", False), ("Rating", False), ("GeologicalContext", False),
    ],
)  # fmt: skip
def test_a_position_is_known_by_its_name(name: str, expected: bool) -> None:
    assert xmp_positions.is_position(b"http://example.org/", name.encode()) is expected
    assert not xmp_positions.is_position(b"http://www.w3.org/1999/02/22-rdf-syntax-ns#", b"Alt")
