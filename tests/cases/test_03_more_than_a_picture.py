"""A file that holds more than its picture, its metadata and what is safe to drop is kept as its bytes, and says why."""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pillow_heif  # noqa: F401 (registers HEIF with Pillow, through the reader)
import pytest
from PIL import Image

from pipeline.codecs.points import parse_ladder
from pipeline.pixels.formats import dropped
from pipeline.records import Outcome
from tests.cases.round_trip import there_and_back

pytestmark = pytest.mark.usefixtures("ray_session")
NOISE = random.Random(3).randbytes(900)
EOI = b"\xff\xd9"


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def riff_chunk(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) & 1)


def box(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I4s", len(payload) + 8, kind) + payload


def resource(number: int, payload: bytes) -> bytes:
    head = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", number, 0, len(payload))
    return segment(0xED, head + payload + bytes(len(payload) & 1))


def samsung(name: bytes, payload: bytes) -> bytes:
    record = struct.pack("<HHI", 0, 0x0A01, len(name)) + name + payload
    directory = b"SEFH" + struct.pack("<IIHHII", 107, 1, 0, 0x0A01, len(record), len(record))
    return record + directory + struct.pack("<I", len(directory)) + b"SEFT"


def mpf(count: int) -> bytes:
    entries = [(0xB000, 7, 4, b"0100"), (0xB001, 4, 1, struct.pack("<I", count))]
    table = b"".join(struct.pack("<HHI", tag, kind, num) + value for tag, kind, num, value in entries)
    return segment(0xE2, b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4))


def saved(picture: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def kept(picture: Image.Image) -> Iterator[tuple[str, bytes, str]]:
    """Name, file, part of the reason."""
    jpeg = saved(picture, "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0"
    depth = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Data="AA=="/>'
    segments = {
        "flir": (0xE1, b"FLIR\0" + NOISE, "FLIR"),
        "parrot": (0xE1, b"PARROT\0II*\0" + NOISE, "Parrot"),
        "unknown 1": (0xE1, b"QVCI\0" + NOISE, "APP1"),
        "two exif": (0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0" + bytes(18), "EXIF"),
        "flashpix": (0xE2, b"FPXR\0" + NOISE, "FlashPix"),
        "preview 2": (0xE2, b"\xff\xd8\xff\xdb" + NOISE, "APP2"),
        "infiray": (0xE2, b"\0\0\0\0IJPEG\0" + NOISE, "APP2"),
        "iso gain map": (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0", "gain map"),
        "icc half": (0xE2, b"ICC_PROFILE\0\1\2" + NOISE, "ICC"),
        "kodak": (0xE3, b"Meta\0\0" + NOISE, "APP3"),
        "jps": (0xE3, b"_JPSJPS_" + NOISE, "stereo"),
        "dji 4": (0xE4, b"\xaa\x55\x12\x06" + NOISE, "APP4"),
        "ricoh": (0xE5, b"RMETA\0" + NOISE, "APP5"),
        "epson": (0xE6, b"EPPIM\0" + NOISE, "APP6"),
        "gopro": (0xE6, b"GoPro\0" + NOISE, "GoPro"),
        "dji 7": (0xE7, b"DJI-DBG\0" + NOISE, "APP7"),
        "spiff": (0xE8, b"SPIFF\0" + NOISE, "APP8"),
        "jukebox": (0xE9, b"Media Jukebox\0" + NOISE, "APP9"),
        "arot": (0xEA, b"AROT\0\0" + NOISE, "gain map"),
        "c2pa": (0xEB, b"JP\0\1\0\0\0\1" + NOISE, "JUMBF"),
        "jpeg hdr": (0xEB, b"HDR_RI ver=11" + NOISE, "HDR"),
        "olympus": (0xEC, b"[picture info]\r\nResolution=1", "APP12"),
        "text 15": (0xEF, b"TEXT\0" + NOISE, "APP15"),
        "binary comment": (0xFE, b"\1\2\3" + NOISE, "COM"),
        "depth": (0xE1, xmp + depth, "depth map"),
        "long adobe": (0xEE, b"Adobe\0d\0\0\0\0\1" + NOISE, "APP14"),
        "long mpf": (0xE2, mpf(1)[4:] + NOISE, "APP2"),
        "jfxx of noise": (0xE0, b"JFXX\0\x10" + NOISE, "APP0"),
        "jfxx and noise": (0xE0, b"JFXX\0\x13\2\2" + bytes(12) + NOISE, "APP0"),
        "jfxx and a segment": (0xE0, b"JFXX\0\x10" + jpeg[:2] + segment(0xE3, NOISE) + jpeg[2:], "APP0"),
        "scalado of noise": (0xE4, b"SCALADO\0" + NOISE, "APP4"),
        "ducky of noise": (0xEC, b"Ducky" + NOISE, "APP12"),
        "ducky with a comment": (0xEC, b"Ducky\0\1\0\4\0\0\0<\0\2\0\5\0\0\0\0a\0\0", "APP12"),
        "long avi1": (0xE0, b"AVI1\0" + bytes(9) + NOISE, "APP0"),
        "long adobe cm": (0xED, b"Adobe_CM\0\2" + NOISE, "APP13"),
        "unicode of noise": (0xEA, b"UNICODE\0" + NOISE, "APP10"),
        "conditioning": (0xCC, NOISE, "marker CC"),
        "number of lines": (0xDC, NOISE, "marker DC"),
        "long jfif": (0xE0, b"JFIF\0\1\2\0\0\1\0\1\0\0" + NOISE, "APP0"),
    }
    for name, (marker, payload, reason) in segments.items():
        first = segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(4)) if name == "two exif" else b""
        yield f"{name}.jpg", jpeg[:2] + first + segment(marker, payload) + jpeg[2:], reason
    yield "path.jpg", jpeg[:2] + resource(2000, NOISE) + jpeg[2:], "Photoshop"
    yield "in the scan.jpg", jpeg[: -len(EOI)] + segment(0xE3, NOISE) + EOI, "APP3"
    yield "mpf.jpg", jpeg[:2] + mpf(2) + jpeg[2:] + jpeg, "2 frames"
    trailers = {
        "wav": (b"RIFF\x10\0\0\0WAVEfmt " + NOISE, "sound"),
        "png": (saved(picture, "PNG"), "PNG"),
        "zip": (b"PK\3\4" + NOISE, "ZIP"),
        "jpeg": (jpeg, "another picture"),
        "film": (b"\0\0\0\x18ftypmp42" + NOISE, "film"),
        "afcp": (NOISE + b"AXS!" + bytes(8), "AFCP"),
        "vrd": (b"CANON OPTIONAL DATA\0" + NOISE, "Canon"),
        "photostation": (NOISE + b"\xa1\xb2\xc3\xd4", "FotoStation"),
        "samsung": (samsung(b"DualShot_DepthMap_1", NOISE), "Samsung"),
        "unknown": (NOISE, "behind the picture"),
    }
    for container, end in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif")):
        for name, (data, reason) in trailers.items():
            yield f"{name} behind {container}.{end}", saved(picture, container) + data, reason
    png, webp, heic = (saved(picture, format) for format in ("PNG", "WEBP", "HEIF"))
    for kind in (b"caBX", b"gMAP", b"sTER", b"mkBT", b"prVt", b"zzZz", b"tIME", b"bKGD", b"iDOT", b"gAMA", b"pHYs", b"sRGB"):
        yield f"{kind.decode()}.png", png[:33] + chunk(kind, NOISE) + png[33:], kind.decode()
    yield "after the pixels.png", png[:-12] + chunk(b"caBX", NOISE) + png[-12:], "caBX"
    body = webp[12:] + riff_chunk(b"C2PA", NOISE)
    yield "c2pa.webp", b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body, "C2PA"
    yield "uuid.heic", heic + box(b"uuid", NOISE), "uuid"
    yield "sefd.heic", heic + box(b"sefd", samsung(b"SoundShot_000", NOISE)), "sefd"
    avif = saved(picture, "AVIF")
    for name, data in (("heic", heic), ("avif", avif)):
        for kind in (b"free", b"skip"):
            yield f"{kind.decode()}.{name}", data + box(kind, NOISE), kind.decode()
        yield f"mdat.{name}", data + box(b"mdat", NOISE), "900 bytes that no item refers to"
    still = riff_chunk(b"ALPH", NOISE), riff_chunk(b"VP8 ", NOISE)
    for name, added in zip(("alph", "two pictures"), still, strict=True):
        yield f"{name}.webp", b"RIFF" + struct.pack("<I", len(webp) - 8 + len(added)) + webp[8:] + added, "a chunk"
    yield "samsung time.jpg", jpeg + samsung(b"Image_UTC_Data", NOISE), "Samsung"
    yield "in between.tif", _with_gap(saved(picture, "TIFF"), NOISE), "900 bytes that none of its tags refers to"
    yield "layers.tif", _tiff(picture, {37724: NOISE}), "layers"
    yield "a directory of its own.tif", _tiff(picture, {50341: 8}, kind=13), "directory"


def _tiff(picture: Image.Image, tags: dict[int, bytes | int], kind: int = 7) -> bytes:
    from PIL import TiffImagePlugin

    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory.tagtype[tag] = kind
        directory[tag] = value
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF", tiffinfo=directory)
    return buffer.getvalue()


def _with_gap(tiff: bytes, content: bytes) -> bytes:
    """The file with a copy of its directory at its end, and something between that and the pixels."""
    (at,) = struct.unpack_from("<I", tiff, 4)
    (num_entries,) = struct.unpack_from("<H", tiff, at)
    directory = tiff[at : at + 2 + 12 * num_entries + 4]
    end = at + len(directory)
    emptied = tiff[:at] + bytes(len(directory)) + tiff[end:] + content
    return emptied[:4] + struct.pack("<I", len(emptied)) + emptied[8:] + directory


def encoded(picture: Image.Image) -> Iterator[tuple[str, bytes]]:
    """What ordinary programs and cameras add."""
    jpeg, png = saved(picture, "JPEG"), saved(picture, "PNG")
    scalado = struct.pack(">4sII4sIi", b"SPMO", 2, len(NOISE), b"WDTH", 1, -96)
    segments = {
        "comment": segment(0xFE, "Ein Gruß".encode()),
        "latin comment": segment(0xFE, b"File written by Adobe Photoshop\xa8 4.0"),
        "adobe": segment(0xEE, b"Adobe\0d\0\0\0\0\1"),
        "ducky": segment(0xEC, b"Ducky\0\1\0\4\0\0\0<\0\0"),
        "adobe with zeros": segment(0xEE, b"Adobe\0d\0\0\0\0\1" + bytes(4)),
        "jfxx": segment(0xE0, b"JFXX\0\x10" + saved(picture.resize((24, 16)), "JPEG")),
        "jfxx pixels": segment(0xE0, b"JFXX\0\x13\2\2" + NOISE[:12]),
        "avi1": segment(0xE0, b"AVI1\0" + bytes(9)),
        "unicode": segment(0xEA, b"UNICODE\0" + "Ein Gruß".encode("utf-16-be")),
        "adobe cm": segment(0xED, b"Adobe_CM\0\1"),
        "mpf of one": mpf(1),
        "photoshop": resource(1005, bytes(16)) + resource(1034, b"\1") + resource(1036, NOISE) + resource(1061, bytes(16)),
        "quality": segment(0xEF, b"Q 95"),
        "scalado": segment(0xE4, b"SCALADO\0" + struct.pack(">HHI", 1, 0, 24 + len(NOISE)) + scalado + NOISE),
        "scalado in two": segment(0xE4, b"SCALADO\0" + struct.pack(">HHI", 2, 0, 24 + len(NOISE)) + scalado)
        + segment(0xE4, b"SCALADO\0" + struct.pack(">HHI", 2, 1, 24 + len(NOISE)) + NOISE),
        "same exif": 2 * segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0" + bytes(4)),
    }
    for name, data in segments.items():
        yield f"{name}.jpg", jpeg[:2] + data + jpeg[2:]
    for name, tail in (
        ("zeros", bytes(5000)),
        ("fill", b"\xff" * 99),
        ("twice", EOI + b"\r\n"),
        ("time", samsung(b"Image_UTC_Data", b"1")),
    ):
        yield f"{name} behind.jpg", jpeg + tail
    for kind in (b"tIME", b"bKGD", b"sBIT", b"vpAg", b"iDOT"):
        yield f"short {kind.decode()}.png", png[:33] + chunk(kind, bytes(6)) + png[33:]
    for format in ("HEIF", "AVIF"):
        data = saved(picture, format)
        yield f"padded.{format.lower()}", data + box(b"free", bytes(99)) + box(b"skip", b"") + box(b"mdat", bytes(50))
    yield "padded.tif", _with_gap(saved(picture, "TIFF"), bytes(1000))
    # Print resolutions that no reader understands, as README says.
    for i, values in enumerate(((1, 1, 2), (0, 72, 1), (1 << 31, 1, 1))):
        yield f"pHYs {i}.png", png[:33] + chunk(b"pHYs", struct.pack(">IIB", *values)) + png[33:]
    yield "unit 3.jpg", jpeg[:13] + b"\3" + jpeg[14:]
    yield "text.png", png[:33] + chunk(b"tEXt", b"Software\0a tool") + png[33:] + bytes(16)


@pytest.fixture(scope="module")
def picture(photo_files: dict[str, bytes]) -> Image.Image:
    photo = Image.open(io.BytesIO(photo_files["bridge.jpg"])).convert("RGB").resize((240, 160))
    photo.info.clear()
    return photo


def test_what_would_be_lost_keeps_the_file(picture: Image.Image, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    reasons = {}
    for name, data, reason in kept(picture):
        (source / name).write_bytes(data)
        reasons[name] = reason
    for name, data in encoded(picture):
        (source / name).write_bytes(data)
    rows, restored = there_and_back(source, tmp_path, ladder=parse_ladder("webp:5"))
    found = {key: (row.outcome, row.reason) for key, row in rows.items()}
    wrong = [key for key in reasons if found[key][0] is not Outcome.KEPT or reasons[key] not in (found[key][1] or "")]
    assert {key: found[key] for key in wrong} == {}
    assert {key: row.reason for key, row in rows.items() if key not in reasons and row.outcome is not Outcome.ENCODED} == {}
    for name in reasons:
        assert (restored / name).read_bytes() == (source / name).read_bytes()


def test_the_readme_lists_what_does_not_travel() -> None:
    readme = " ".join((Path(__file__).parents[2] / "jobs/README.md").read_text().split())
    start = readme.index("| container | does not travel |")
    table = readme[start : readme.index("What is more than one picture", start)]
    for container, parts in dropped.README_LIST.items():
        assert f"| {container} | {'; '.join(parts)} |" in table
    assert len(re.findall(r"\| [A-Z][^|]* \| [^|]* \|", table)) == len(dropped.README_LIST)
