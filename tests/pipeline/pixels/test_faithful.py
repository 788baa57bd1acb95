"""What must not be flattened, turned or recoloured in silence, in real files of every container."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 (registers itself with Pillow)
import pytest
from PIL import Image, ImageCms

from pipeline.errors import UnsupportedPhotoError
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.formats.writer import write_photo
from pipeline.records import PhotoMetadata
from tests.exiftool import exiftool, tags_of

CONTAINERS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF")
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def picture(photo_files: dict[str, bytes]) -> Image.Image:
    photo = Image.open(io.BytesIO(photo_files["wine.jpg"])).convert("RGB").resize((96, 64))
    return Image.fromarray(np.asarray(photo))  # without the profile


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, format, **options)  # a copy: saving leaves settings behind
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def after_start(jpeg: bytes, *segments: bytes) -> bytes:
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def display_p3() -> bytes:
    """Apple's wide gamut: sRGB's curve with other primaries, adapted to D50, in place of sRGB's in Pillow's profile."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {b"rXYZ": (0.5151, 0.2412, -0.0011), b"gXYZ": (0.2919, 0.6922, 0.0419), b"bXYZ": (0.1572, 0.0666, 0.7841)}
    (num_tags,) = struct.unpack_from(">I", profile, 128)
    for at in range(132, 132 + 12 * num_tags, 12):
        name, offset, _ = struct.unpack_from(">4sII", profile, at)
        if name in primaries:
            struct.pack_into(">3i", profile, offset + 8, *(round(value * 65536) for value in primaries[name]))
    return bytes(profile)


def special_files(picture: Image.Image) -> dict[str, tuple[bytes, str]]:
    """Name -> (file, part of the reason for which no codec may take it)."""
    jpeg, png = saved(picture, "JPEG"), saved(picture, "PNG")
    other = Image.fromarray(255 - np.asarray(picture))
    gain_map = b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>'
    wide_avif = saved(picture, "AVIF").replace(b"colrnclx\0\1", b"colrnclx\0\x0c")
    palette = picture.quantize(16)
    deep = pillow_heif.from_bytes("RGB;16", (64, 64), bytes(range(256)) * 96)
    buffer = io.BytesIO()
    deep.save(buffer, quality=90)
    # Apple's gain maps and depth maps are pictures beside the first, as transparency is, under other names.
    beside = saved(picture.convert("RGBA"), "HEIF")
    alpha = b"urn:mpeg:hevc:2015:auxid:1"
    return {
        "two pictures.jpg": (saved(picture, "MPO", save_all=True, append_images=[other.copy()]), "2 frames"),
        "ultra hdr.jpg": (after_start(jpeg, segment(0xE1, gain_map)), "gain map"),
        "iso gain map.jpg": (after_start(jpeg, segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")), "gain map"),
        "motion photo.jpg": (jpeg + b"\0\0\0\x18ftypmp42" + bytes(40), "film"),
        "motion photo.heic": (saved(picture, "HEIF") + b"\0\0\0\x10mpvd" + bytes(8), "film"),
        "cmyk.tif": (saved(picture.convert("CMYK"), "TIFF"), "CMYK"),
        "pages.tif": (saved(picture, "TIFF", save_all=True, append_images=[other.copy()]), "2 frames"),
        "sixteen.tif": (saved(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)), "TIFF"), "8 bits"),
        "big.tif": (saved(picture, "TIFF", big_tiff=True), "BigTIFF"),
        "lab.tif": (saved(_in_lab(picture), "TIFF"), "mode LAB"),
        "grey alpha.png": (saved(picture.convert("LA"), "PNG"), "transparency"),
        "palette.png": (saved(palette, "PNG"), "mode P"),
        "clear palette.png": (saved(palette, "PNG", transparency=3), "transparency"),
        "animated.png": (saved(picture, "PNG", save_all=True, append_images=[other.copy()]), "animated"),
        "hdr.png": (png[:33] + chunk(b"cICP", bytes([9, 16, 0, 1])) + png[33:], "cICP"),
        "gamma.png": (png[:33] + chunk(b"gAMA", struct.pack(">I", 100_000)) + png[33:], "gAMA"),
        "animated.webp": (saved(picture, "WEBP", save_all=True, append_images=[other.copy()]), "animated"),
        "clear.webp": (saved(picture.convert("RGBA"), "WEBP", lossless=True, exact=True), ""),
        "animated.avif": (saved(picture, "AVIF", save_all=True, append_images=[other.copy()]), "animated"),
        "wide.avif": (wide_avif, "without an ICC profile"),
        "ten bits.heic": (buffer.getvalue(), "8 bits"),
        "clear.heic": (saved(picture.convert("RGBA"), "HEIF"), "transparency"),
        "gain map.heic": (beside.replace(alpha, b"urn:com:x:photo:hdrgainmap"), "gain map"),
        "depth.heic": (beside.replace(alpha, b"urn:mpeg:hevc:2015:auxid:2"), "depth map"),
        "burst.heic": (saved(picture, "HEIF", save_all=True, append_images=[other.copy()]), "2 frames"),
        "a.jxl": (saved(picture, "JXL"), "JXL"),
        "a.bmp": (saved(picture, "BMP"), "BMP"),
    }


def _in_lab(picture: Image.Image) -> Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(picture, to_lab)
    assert image is not None
    return image


def test_what_is_more_than_one_picture_of_eight_bits_is_told(picture: Image.Image) -> None:
    for name, (data, reason) in special_files(picture).items():
        found = probe(data).unsupported
        if name == "clear.webp":
            assert found is None or "transparency" in found  # libwebp leaves out alpha that hides nothing
            continue
        assert found is not None, name
        assert reason in found, (name, found)


def test_plain_files_are_not_taken_for_special_ones(picture: Image.Image) -> None:
    for format in CONTAINERS:
        assert probe(saved(picture, format)).unsupported is None
    png, jpeg = saved(picture, "PNG"), saved(picture, "JPEG")
    gamma = chunk(b"gAMA", struct.pack(">I", 45_455))
    whites = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    assert probe(png[:33] + gamma + whites + png[33:]).unsupported is None
    assert probe(jpeg + bytes(100)).unsupported is None


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_comes_back_turned_as_it_was(format: str, orientation: int, picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if format == "WEBP" else {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    data = saved(picture, format, exif=exif if format == "TIFF" else exif.tobytes(), **options)
    header = probe(data)
    shown = read_pixels(data, header)
    assert (header.orientation, header.width, header.height) == (orientation, shown.shape[1], shown.shape[0])
    again = write_photo(shown, format=format, mode="RGB", metadata=header.metadata, orientation=orientation)
    assert np.abs(read_pixels(again).astype(int) - shown).mean() < 6
    if format == "AVIF":
        assert probe(again).orientation == 1
    else:
        assert probe(again).metadata.exif == header.metadata.exif
        assert Image.open(io.BytesIO(again)).getexif()[ORIENTATION] == orientation
    upright = write_photo(shown, format="PNG", mode="RGB", metadata=header.metadata)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(upright))), shown)
    assert probe(upright).orientation == 1


@pytest.mark.parametrize("format", CONTAINERS)
def test_wide_gamut_keeps_its_colours(format: str, picture: Image.Image) -> None:
    profile = display_p3()
    data = saved(picture, format, icc_profile=profile)
    header = probe(data)
    again = write_photo(read_pixels(data, header), format=format, mode=header.mode, metadata=header.metadata, orientation=1)
    assert probe(again).metadata.icc == profile
    before, after = (_in_srgb(file) for file in (data, again))
    assert np.abs(before - after).mean() < 3
    # Not what the numbers alone, taken for sRGB, would show.
    assert np.abs(before - read_pixels(data)).mean() > np.abs(before - after).mean() + 1


def _in_srgb(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    shown = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(shown).astype(int)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "HEIF", "AVIF"])
def test_grey_stays_grey(format: str, picture: Image.Image) -> None:
    data = saved(picture.convert("L"), format)
    header = probe(data)
    assert header.mode == "L"
    again = write_photo(read_pixels(data, header), format=format, mode=header.mode, metadata=header.metadata, orientation=1)
    assert Image.open(io.BytesIO(again)).mode == "L"
    assert np.abs(read_pixels(again).astype(int) - read_pixels(data)).mean() < 3


def test_a_grey_profile_does_not_go_into_a_file_of_three_colours(picture: Image.Image) -> None:
    profile = bytearray(display_p3())
    profile[16:20] = b"GRAY"
    pixels = np.asarray(picture.convert("L").convert("RGB"))
    with pytest.raises(UnsupportedPhotoError, match="--format PNG"):
        write_photo(pixels, format="WEBP", mode="L", metadata=PhotoMetadata(icc=bytes(profile)))


def test_xmp_in_two_parts_comes_back_in_two_and_as_one_elsewhere(picture: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(picture, "JPEG"))
    exiftool("-overwrite_original", "-XMP-xmp:CreatorTool=A tool", f"-XMP-dc:Description={'long ' * 20_000}", path)
    before = tags_of(tmp_path)["a.jpg"]
    assert "XMP-xmpNote:HasExtendedXMP" in before
    header = probe(path.read_bytes())
    assert header.metadata.xmp_extended
    pixels = read_pixels(path.read_bytes(), header)
    for format, name in (("JPEG", "b.jpg"), ("PNG", "c.png"), ("TIFF", "d.tif")):
        data = write_photo(pixels, format=format, mode="RGB", metadata=header.metadata, orientation=1)
        (tmp_path / name).write_bytes(data)
    after = tags_of(tmp_path)
    for name in ("b.jpg", "c.png", "d.tif"):
        assert after[name]["XMP-dc:Description"] == before["XMP-dc:Description"]
        assert after[name]["XMP-xmp:CreatorTool"] == "A tool"
    assert after["b.jpg"]["XMP-xmpNote:HasExtendedXMP"] == before["XMP-xmpNote:HasExtendedXMP"]
    assert "XMP-xmpNote:HasExtendedXMP" not in after["c.png"]


def test_more_iptc_than_a_segment_holds_comes_back(picture: Image.Image, tmp_path: Path) -> None:
    words = [f"-IPTC:Keywords=word {i} {'x' * 50}" for i in range(1500)]
    path = tmp_path / "a.tif"
    path.write_bytes(saved(picture, "TIFF"))
    exiftool("-overwrite_original", *words, path)
    header = probe(path.read_bytes())
    pixels = read_pixels(path.read_bytes(), header)
    for format, name in (("TIFF", "b.tif"), ("JPEG", "c.jpg"), ("PNG", "d.png")):
        data = write_photo(pixels, format=format, mode="RGB", metadata=header.metadata, orientation=1)
        (tmp_path / name).write_bytes(data)
        assert (probe(data).metadata.iptc or b"").rstrip(b"\0") == (header.metadata.iptc or b"").rstrip(b"\0")
    after = tags_of(tmp_path)
    assert len(after["a.tif"]["IPTC:Keywords"]) == 1500
    assert all(after[name]["IPTC:Keywords"] == after["a.tif"]["IPTC:Keywords"] for name in ("b.tif", "c.jpg", "d.png"))
