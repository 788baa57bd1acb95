"""Pixels that decode are never refused for their metadata: it comes back as it was, or the file is kept as its bytes."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.codecs.points import parse_ladder
from pipeline.pixels.formats.heif_items import read_items
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.formats.writer import write_photo
from pipeline.records import Outcome, PhotoMetadata
from tests.cases.pictures import (
    EXIF,
    XMP_SEGMENT,
    chunk,
    in_jpeg,
    in_png,
    in_tiff,
    in_webp,
    orientation_block,
    photo,
    riff_chunk,
    saved,
    segment,
)
from tests.cases.round_trip import there_and_back
from tests.hostile.mutation import mutated

pytestmark = pytest.mark.usefixtures("ray_session")
NOISE = random.Random(7).randbytes(200)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg"/></rdf:RDF></x:xmpmeta>'
)
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "heic": "HEIF", "avif": "AVIF"}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
IPTC = b"\x1c\x02\x78\0\5hello"


def blocks() -> dict[str, bytes]:
    """EXIF blocks that somebody wrote, or that damage left."""
    sound = orientation_block(3, b"\6\0")
    loop = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    return {
        "byte": orientation_block(1, b"\6"),
        "undefined": orientation_block(7, b"\6"),
        "ascii": orientation_block(2, b"6\0"),
        "word": orientation_block(2, b"Horizontal (normal)\0", count=20),
        "rational": orientation_block(5, struct.pack("<II", 6, 1)),
        "nan": orientation_block(12, struct.pack("<d", float("nan"))),
        "float": orientation_block(11, struct.pack("<f", 6.0)),
        "zero": orientation_block(3, b"\0\0"),
        "nine": orientation_block(3, b"\x09\0"),
        "65535": orientation_block(3, b"\xff\xff"),
        "minus": orientation_block(9, struct.pack("<i", -6)),
        "no values": orientation_block(3, b"", count=0),
        "huge count": orientation_block(3, b"", count=0xFFFFFFFF),
        "type 99": orientation_block(99, b"\6\0"),
        "garbage": NOISE,
        "zeroed": bytes(64),
        "cut short": sound[:4],
        "cut in the directory": sound[:20],
        "empty": b"",
        "another mark": b"XX" + sound[2:],
        "offset behind the end": b"II*\0\xff\xff\xff\x7f" + NOISE,
        "offset 0": b"II*\0\0\0\0\0" + NOISE,
        "a loop": loop,
        "prefix twice": EXIF + sound,
    }


def files() -> Iterator[tuple[str, bytes]]:
    picture = photo(96, 64)
    jpeg, png, webp, tiff, heic, avif = (saved(picture, format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"))
    with_dpi = saved(picture, "JPEG", dpi=(72, 72))
    for name, block in blocks().items():
        yield f"{name}.jpg", in_jpeg(with_dpi, segment(0xE1, EXIF + block))
        yield f"{name}.png", in_png(png, chunk(b"eXIf", block))
        yield f"{name}.webp", in_webp(webp, 8, riff_chunk(b"EXIF", block))
        for format, suffix in (("HEIF", "heic"), ("AVIF", "avif")):
            place = b"II*\0\x08\0\0\0" + bytes(6) + b"?" * (len(block) - 14)
            if len(block) > 30:
                yield f"{name}.{suffix}", saved(picture, format, exif=EXIF + place).replace(place, block)
    for name, packet in (
        ("no xml", NOISE),
        ("utf-16", XMP.decode().encode("utf-16")),
        ("nothing", b""),
        ("latin", XMP[:-1] + b"\xe9"),
    ):
        yield f"xmp {name}.jpg", in_jpeg(jpeg, segment(0xE1, XMP_SEGMENT + packet))
        yield f"xmp {name}.png", in_png(png, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet))
        yield f"xmp {name}.webp", in_webp(webp, 4, riff_chunk(b"XMP ", packet))
    grey = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    cmyk = PROFILE[:16] + b"CMYK" + PROFILE[20:]
    for name, icc in (
        ("cut", PROFILE[:100]),
        ("noise", NOISE),
        ("grey", grey),
        ("cmyk", cmyk),
        ("large", PROFILE + bytes(2_000_000)),
    ):
        for format, suffix in (
            ("PNG", "png"),
            ("JPEG", "jpg"),
            ("WEBP", "webp"),
            ("TIFF", "tif"),
            ("HEIF", "heic"),
            ("AVIF", "avif"),
        ):
            yield f"icc {name}.{suffix}", saved(picture, format, icc_profile=icc)
    yield from pngs(png)
    resources = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", 9999) + IPTC
    yield "iptc too long.jpg", in_jpeg(jpeg, segment(0xED, resources))
    yield "density.jpg", jpeg.replace(b"JFIF\0\1\1\0\0\1\0\1", b"JFIF\0\1\1\x09\xff\xff\0\0", 1)
    yield "short jfif.jpg", in_jpeg(jpeg[:2] + jpeg[20:], segment(0xE0, b"JFIF\0\1"))
    yield "short adobe.jpg", in_jpeg(jpeg, segment(0xEE, b"Adobe\0"))
    yield "index.jpg", in_jpeg(jpeg, segment(0xE2, b"MPF\0II*\0" + NOISE))
    yield "junk between.jpg", in_jpeg(jpeg, b"\0\1\2\3", segment(0xE1, EXIF + orientation_block(3, b"\6\0")), b"\x99")
    yield "fill between.jpg", in_jpeg(jpeg, b"\xff" * 7, segment(0xFE, b"hello"))
    for name, flags in (("all", 0x2C), ("none", 0)):
        yield f"flags {name}.webp", in_webp(webp, flags, riff_chunk(b"EXIF", orientation_block(3, b"\6\0")))
    for name, tag, kind, count, value in (
        ("resolution as text", 282, 2, 4, b"300\0"),
        ("resolution by 0", 282, 5, 1, bytes(8)),
        ("iptc as long", 33723, 4, 3, IPTC + b"\0\0"),
        ("icc as text", 34675, 2, len(NOISE), NOISE),
        ("xmp as short", 700, 3, len(XMP) // 2, XMP[: len(XMP) // 2 * 2]),
        ("date of bytes", 306, 1, 5, b"today"),
        ("type 99", 306, 99, 1, b"abcd"),
        ("huge count", 270, 2, 0x7FFFFFFF, b""),
        ("exif nowhere", 0x8769, 4, 1, b"\xff\xff\xff\x7f"),
        ("exif of two", 0x8769, 4, 2, bytes(8)),
        ("orientation of text", 274, 2, 2, b"6\0"),
    ):
        yield f"{name}.tif", in_tiff(tiff, tag, kind, count, value)
    for suffix, data in (("heic", with_exif(heic, "HEIF")), ("avif", with_exif(avif, "AVIF"))):
        (item,) = (item for item in read_items(data).items.values() if item.kind == b"Exif")
        start, end = item.located_at[-1]
        yield f"exif outside.{suffix}", data[:start] + b"\x7f" * (end - start) + data[end:]


def with_exif(data: bytes, format: str) -> bytes:
    header = probe(data)
    metadata = PhotoMetadata(exif=orientation_block(3, b"\6\0") + NOISE)
    return write_photo(read_pixels(data, header), format=format, mode="RGB", metadata=metadata)


def pngs(png: bytes) -> Iterator[tuple[str, bytes]]:
    packed = zlib.compress(bytes(2_000_000))
    yield "text of 2 MB.png", in_png(png, chunk(b"zTXt", b"Comment\0\0" + packed))
    yield "texts of 80 MB.png", in_png(png, *40 * [chunk(b"zTXt", b"Comment\0\0" + packed)])
    yield "bomb in a profile.png", in_png(png, chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(99_000_000))))
    yield "xmp bomb.png", in_png(png, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 99_000_000)))
    for kind, payload in (
        (b"tEXt", b"Comment\0hello"),
        (b"zTXt", b"Comment\0\0" + NOISE),
        (b"zTXt", b"Comment\0\x07" + NOISE),
        (b"iTXt", NOISE),
        (b"iCCP", b"icc\0\0" + NOISE),
        (b"iCCP", b"icc\0\0" + zlib.compress(PROFILE)[:-9]),
        (b"eXIf", NOISE),
        (b"pHYs", b"\0"),
        (b"gAMA", b"\0"),
        (b"cHRM", NOISE[:9]),
        (b"sRGB", b""),
        (b"tIME", NOISE),
        (b"sBIT", b""),
        (b"tRNS", b"\0"),
        (b"acTL", b"\0"),
        (b"fcTL", b"\0"),
    ):
        for name, checksum in (("right", None), ("wrong", 7)):
            yield f"{kind.decode()} {payload[:12].hex()} {name}.png", in_png(png, chunk(kind, payload, checksum))
    for name, text in (
        ("odd", b"\nexif\n      5\n012\n"),
        ("no number", b"\nexif\n\n"),
        ("not hexadecimal", b"\nexif\n 2\nxyzt\n"),
    ):
        yield f"raw profile {name}.png", in_png(png, chunk(b"tEXt", b"Raw profile type exif\0" + text))


@pytest.mark.parametrize(("codec", "step"), [("webp:30", 1), ("ditic-small:4", 5)])
def test_no_photo_is_refused(codec: str, step: int, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, data in list(files())[::step]:
        (source / name).write_bytes(data)
    check(source, tmp_path, codec)


def check(source: Path, tmp_path: Path, codec: str) -> Counter[Outcome]:
    """Each file of `source` is there again with its metadata, and says why where it was kept; counts of outcomes."""
    rows, restored = there_and_back(source, tmp_path, ladder=parse_ladder(codec))
    assert {key: row.reason for key, row in rows.items() if row.outcome is Outcome.FAILED} == {}
    assert rows.keys() == {path.name for path in restored.iterdir()} == {path.name for path in source.iterdir()}
    for key, row in rows.items():
        before, after = (source / key).read_bytes(), (restored / key).read_bytes()
        if row.outcome is Outcome.KEPT:
            assert before == after
            assert row.reason
            continue
        was, now = probe(before), probe(after)
        assert (now.format, now.width, now.height) == (was.format, was.width, was.height)
        assert now.metadata.icc == was.metadata.icc, key
        if was.format in ("HEIF", "AVIF"):
            assert len(now.metadata.exif or b"") == len(was.metadata.exif or b""), key  # but for the orientation
        else:
            assert (now.metadata.exif, now.metadata.iptc) == (was.metadata.exif, was.metadata.iptc), key
        if row.model is None:
            assert len(now.metadata.xmp or b"") == len(was.metadata.xmp or b""), key
    return Counter(row.outcome for row in rows.values())


def test_metadata_damaged_at_random_refuses_no_photo(tmp_path: Path) -> None:
    rng = random.Random(2_607)
    source = tmp_path / "source"
    source.mkdir()
    for i in range(240):
        suffix, data = damaged(i, rng)
        (source / f"{i}.{suffix}").write_bytes(data)
    outcomes = check(source, tmp_path, "webp:30")
    assert min(outcomes[Outcome.ENCODED], outcomes[Outcome.KEPT]) > 40


def damaged(i: int, rng: random.Random) -> tuple[str, bytes]:
    """A small file whose metadata is damaged and whose pixels are not."""
    suffix, format = list(FORMATS.items())[i % len(FORMATS)]
    picture = photo(48, 32)
    parts = {"exif": orientation_block(3, b"\6\0") + NOISE, "icc": PROFILE, "xmp": XMP}

    def hurt(block: bytes) -> bytes:
        return mutated(block, rng) if rng.random() < 0.5 else block

    if format == "JPEG":
        resources = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC
        segments = [
            segment(0xE1, EXIF + hurt(parts["exif"])),
            segment(0xE1, hurt(XMP_SEGMENT + XMP)),
            segment(0xE2, b"ICC_PROFILE\0" + hurt(b"\1\1" + PROFILE)),
            segment(0xED, hurt(resources)),
        ]
        return suffix, in_jpeg(saved(picture, format), *rng.sample(segments, 3))
    if format == "PNG":
        chunks = {
            b"eXIf": parts["exif"],
            b"iCCP": b"icc\0\0" + zlib.compress(PROFILE),
            b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0" + XMP,
            b"zTXt": b"Raw profile type iptc\0\0" + zlib.compress(b"\niptc\n 10\n" + IPTC.hex().encode()),
        }
        wrong = [None, None, 7]
        return suffix, in_png(
            saved(picture, format), *(chunk(kind, hurt(part), rng.choice(wrong)) for kind, part in chunks.items())
        )
    if format == "WEBP":
        chunks = {b"ICCP": parts["icc"], b"EXIF": parts["exif"], b"XMP ": parts["xmp"]}
        flags = rng.choice([0x2C, 0x2C, 0x24, 0x0C, 0])
        return suffix, in_webp(saved(picture, format), flags, *(riff_chunk(kind, hurt(part)) for kind, part in chunks.items()))
    metadata = PhotoMetadata(exif=parts["exif"], icc=PROFILE, xmp=XMP, iptc=IPTC if format == "TIFF" else None)
    data = write_photo(np.asarray(picture), format=format, mode="RGB", metadata=metadata, orientation=6)
    for part in parts.values():
        # Of the same length: nothing else in the file moves.
        data = data.replace(part, hurt(part)[: len(part)].ljust(len(part), b"\0"), 1)
    places = _tags(data) if format == "TIFF" else _locations(data)
    if rng.random() < 0.4:
        at = rng.choice(places)
        data = data[:at] + rng.randbytes(1) + data[at + 1 :]
    return suffix, data


def _tags(tiff: bytes) -> list[int]:
    """Where types, counts and values of a TIFF's tags stand, but for those that say how its pixels lie in it."""
    layout = {254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 338, 339}
    (at,) = struct.unpack_from("<I", tiff, 4)
    (num_entries,) = struct.unpack_from("<H", tiff, at)
    entries = range(at + 2, at + 2 + 12 * num_entries, 12)
    return [
        place
        for entry in entries
        if struct.unpack_from("<H", tiff, entry)[0] not in layout
        for place in range(entry + 2, entry + 12)
    ]


def _locations(heif: bytes) -> list[int]:
    """Where a HEIF or AVIF file says where its EXIF and XMP lie."""
    items = [item for item in read_items(heif).items.values() if item.kind in (b"Exif", b"mime")]
    # Not how many pieces they have: then what follows would be read as something else.
    return [place for item in items for start, end in item.located_at[1:] for place in range(start, end)]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_restored_file_opens_everywhere(tmp_path: Path) -> None:
    """Also where its metadata makes no sense: as the source does."""
    source = tmp_path / "source"
    source.mkdir()
    for name, block in blocks().items():
        (source / f"{name}.jpg").write_bytes(in_jpeg(saved(photo(96, 64), "JPEG"), segment(0xE1, EXIF + block)))
    _, restored = there_and_back(source, tmp_path, ladder=parse_ladder("webp:30"))
    for path in source.iterdir():
        with Image.open(io.BytesIO((restored / path.name).read_bytes())) as image:
            assert image.size == (96, 64)
            image.load()
