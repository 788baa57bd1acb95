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
# Names and values of programs that exiftool does not know.
BY_VALUE = {
    "UTMEasting": "691607.5", "HomePoint": "48.1,11.5", "TakeOffPoint": "48.1, 11.5", "Position": "48.1 11.5",
    "GeoLocation": "48.137154,11.576124", "Location": "48.1,11.5", "LocationISO6709": "+48.137154+011.576124/",
    "MGRS": "32UPU9160735", "WKT": "POINT(11.576124 48.137154)", "PlusCode": "8FWH4HPX+WV", "Elevation": "519",
    "GeoX": "11.576124", "What3Words": "a.b.c", "a": "48.137154, 11.576124", "b": "48°08'13.8&quot;N 11°34'34.0&quot;E",
    "c": "48,8.229N", "d": "SRID=4326;POINT (11.576124 48.137154)", "e": "+48.137154+011.576124/",
    "f": "32U PU 91607 35788", "g": "32U 691607 5334761", "h": "8FWH4HPX+WV", "i": "&#103;eo:48.137154,11.5",
    "j": "https://www.openstreetmap.org/#map=15/48.137154/11.576124",
    "k": "{&quot;lat&quot;:48.137154,&quot;lon&quot;:11.576124}", "l": "GPS: 48.137154 11.576124 519", "m": "lat=48.137154",
    "n": "latitude 48.137154", "o": "N 48.137154 E 11.576124",
}  # fmt: skip
VALUES_STAY = {
    "Title": "Latitude 48", "Caption": "At 48 Baker Street, 11.5 km from home", "Location": "Marienplatz",
    "Version": "15.4", "Date": "2024-05-06T07:08:09.123", "Crop": "0.25 0.125", "Curve": "128, 130",
    "Lens": "24/1 70/1 28/10 28/10", "Phone": "+49 89 12345", "Id": "xmp.did:0a1b2c3d-4e5f",
    "AuthorsPosition": "photographer", "Face": "0.512345, 0.498765", "Ratio": "1.5",
}  # fmt: skip
REMARKS = "<!-- GPSLatitude 48.137154 --><?own lat=48.137154?>"


def packet_of(properties: dict[str, str], remarks: str = "") -> bytes:
    """A packet that holds each property as an attribute and as an element."""
    attributes = " ".join(f'my:{name}="{value}"' for name, value in properties.items())
    elements = "".join(f"<my:{name}>{value}</my:{name}>" for name, value in properties.items())
    text = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{remarks}<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:my="http://example.org/my/" {attributes}><!-- a remark -->'
        f"<my:more rdf:parseType='Resource'>{elements}</my:more></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    return text.encode()


def exif_with_gps(order: str, kind: int, code: str, count: int) -> bytes:
    """An EXIF block whose pointer to the GPS directory is of some type."""
    directory = 8 + 2 + 12 + 4
    pointer = struct.pack(order + "HHI", 0x8825, kind, count) + struct.pack(order + code, directory).ljust(4, b"\0")
    values = directory + 2 + 24 + 4
    gps = struct.pack(order + "HHHI4s", 2, 1, 2, 2, b"N") + struct.pack(order + "HHII", 2, 5, 3, values) + bytes(4)
    gps += struct.pack(order + "6I", 48, 1, 8, 1, 137154, 10000)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IH", 8, 1) + pointer + bytes(4) + gps


POINTERS = {
    f"{kind} {code}{count} {order}": exif_with_gps("<" if order == "le" else ">", kind, code, count)
    for kind, code, count in (
        (1, "I", 4), (2, "I", 4), (3, "H", 1), (3, "H", 2), (4, "I", 1), (7, "I", 4), (8, "h", 1), (9, "i", 1), (13, "I", 1),
    )
    for order in ("le", "be")
}  # fmt: skip
A_POSITION = re.compile(
    r"gps(?!\w*version)|latitude|longitude|longtitude|altitude|coordinate|elevation|wkt|cell|lat$|lon$|point|geo"
)
HARMLESS = re.compile(r"XMP-exifEX:ISOSpeedLatitude|File:|ExifTool:")
CLEAN = {"kept clean.png", "kept clean too.png"}


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
    for name in ("a.jpg", "e.heic"):
        picture.save(folder / f"values {name}", xmp=packet_of(BY_VALUE | {"rest": "stays"}, REMARKS))
        picture.save(folder / f"others {name}", xmp=packet_of(VALUES_STAY))
    picture.save(
        folder / "values d.tif",
        tiffinfo={42112: "<GDALMetadata><Item name='LAT'>48.137154</Item></GDALMetadata>", 270: "48.137154, 11.576124"},
    )
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
    dji = b'xmlns="http://www.dji.com/drone-dji/1.0/"'
    for i, element in enumerate(
        (b"<Latitude %s>48</Latitude>", b"<Coordinates %s/>", b'<e:Latitude xmlns:e="x">48</e:Latitude>', b'<a e:Lat="48"/>',
         b"<d.x:Latitude>48</d.x:Latitude>", "<é:Longitude>11</é:Longitude>".encode())
    ):  # fmt: skip
        kept[f"tag {i}"] = chunk(b"tEXt", b"unknown\0" + element.replace(b"%s", dji))
    for i, (name, value) in enumerate(BY_VALUE.items()):
        kept[f"value {i}"] = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet_of({name: value}))
    texts = (
        "Latitude\x0048.1", "Location\0+48.1373+011.5754/", "Comment\0geo:48.13,11.5", 'Comment\0{"lat":48.1373,"lon":11.57}',
        "Comment\0taken at 48.1373, 11.5754 or so", "Comment\x0048°08'13.8\"N",
    )  # fmt: skip
    kept |= {f"text {i}": chunk(b"tEXt", text.encode("latin-1")) for i, text in enumerate(texts)}
    for name, block in POINTERS.items():
        kept[f"pointer {name}"] = chunk(b"eXIf", block)
        kept[f"pointer {name} in a text"] = raw_profile("exif", b"Exif\0\0" + block)
    clean = packet_of(VALUES_STAY)
    (folder / "kept clean too.png").write_bytes(
        png[:33] + chunk(b"tEXt", b"Comment\0 1.5, 2.5") + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + clean) + png[33:]
    )
    for name, added in kept.items():
        (folder / f"kept {name}.png").write_bytes(png[:33] + added + png[33:])
    for name, block in POINTERS.items():
        (folder / f"pointer {name}.jpg").write_bytes(jpeg[:2] + segment(0xE1, b"Exif\0\0" + block) + jpeg[2:])
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
        if not name.startswith(("kept", "bad", "gps in", "values d", "others", "pointer")):
            assert positions(tags), name
    failed = {key for key, row in rows.items() if row.outcome is Outcome.FAILED}
    assert failed == {key for key in rows if key.startswith(("kept", "bad", "gps in"))} - CLEAN
    assert all("--strip-gps" in (rows[key].reason or "") for key in failed)
    assert after.keys() == rows.keys() - failed
    for name, tags in after.items():
        if name not in ("others a.jpg", "others e.heic", "kept clean too.png"):
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
    latitude = struct.pack("<2I", 137154, 10000), struct.pack(">2I", 137154, 10000)
    for name, row in rows.items():
        if name.startswith("pointer"):
            assert not any(number in (row.exif or b"") for number in latitude), name
    for name in ("a.jpg", "e.heic"):
        packet = rows[f"values {name}"].xmp or b""
        assert [text for text in re.findall(rb"my:(\w+)", packet) if text not in (b"more", b"rest")] == []
        assert packet.count(b"stays") == 2
        expected = packet_of(VALUES_STAY)
        assert rows[f"others {name}"].xmp == expected


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
