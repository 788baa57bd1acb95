"""Files to pixels and back, with real files of every format."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.bucket import batches
from pipeline.pixels.formats.probe import PixelLimits, probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.pixels.formats.writer import write_photo
from pipeline.pixels.metadata.exif import upright
from pipeline.pixels.padding import crop, pad, padded_size
from pipeline.records import PhotoMetadata
from tests.bad_photos import one_colour_png, write_bad_photos

NAMES = sorted(p.name for p in (Path(__file__).parents[2] / "photos").iterdir() if p.suffix != ".md")


@pytest.mark.parametrize("name", NAMES)
def test_a_photo_comes_back_in_its_format_with_its_metadata(name: str, photo_files: dict[str, bytes]) -> None:
    header = probe(photo_files[name])
    pixels = read_pixels(photo_files[name], header)
    assert pixels.shape == (header.height, header.width, 3)
    again = write_photo(pixels, format=header.format, mode=header.mode, metadata=header.metadata)
    restored = probe(again)
    assert (restored.format, restored.mode) == (header.format, header.mode)
    assert (restored.width, restored.height, restored.orientation) == (header.width, header.height, 1)
    assert restored.metadata.icc == header.metadata.icc
    assert restored.metadata.xmp == header.metadata.xmp
    for tag in (315, 33432):  # artist and copyright
        before, after = (Image.open(io.BytesIO(data)).getexif().get(tag) for data in (photo_files[name], again))
        assert before == after
    error = np.abs(read_pixels(again).astype(int) - pixels).mean()
    assert error < 3


def test_samples_hold_what_they_are_there_for(photo_files: dict[str, bytes]) -> None:
    headers = {name: probe(data) for name, data in photo_files.items()}
    assert {h.format for h in headers.values()} == {"JPEG", "PNG", "WEBP", "TIFF", "HEIF"}
    assert headers["brushes.jpg"].orientation == 6
    assert headers["greentock.jpg"].mode == "L"
    assert any(h.metadata.icc for h in headers.values())
    assert any(h.metadata.xmp for h in headers.values())
    assert sum(map(len, photo_files.values())) < 8_000_000


def test_orientation_is_applied_once(photo_files: dict[str, bytes]) -> None:
    stored = Image.open(io.BytesIO(photo_files["brushes.jpg"]))
    assert np.array_equal(read_pixels(photo_files["brushes.jpg"]), np.rot90(np.asarray(stored), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_shows_the_same_picture(orientation: int, photo_files: dict[str, bytes]) -> None:
    picture = read_pixels(photo_files["sunset.png"])
    turned = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(turned)).save(buffer, "PNG", exif=exif)
    assert np.array_equal(read_pixels(buffer.getvalue()), picture)


def test_only_the_orientation_changes_in_the_exif_block() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[271], exif[272] = 6, "Maker", "Model"
    for endian in ("<", ">"):
        exif.endian = endian
        block = exif.tobytes().removeprefix(b"Exif\0\0")
        patched = upright(block)
        assert len(patched) == len(block)
        assert sum(a != b for a, b in zip(block, patched, strict=True)) == 1
    assert upright(b"no exif") == b"no exif"
    assert upright(b"II*\0\xff\xff\xff\xff") == b"II*\0\xff\xff\xff\xff"


def test_bad_files_say_what_they_are(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    for name, (outcome, reason) in write_bad_photos(tmp_path, photo_files["bridge.jpg"]).items():
        data = (tmp_path / name).read_bytes()
        if outcome == "failed":
            with pytest.raises(UnreadablePhotoError, match=reason):
                read_pixels(data)
        elif outcome == "kept":
            header = probe(data)
            assert header.unsupported
            assert reason in header.unsupported
            with pytest.raises(UnsupportedPhotoError):
                read_pixels(data)
        else:
            assert read_pixels(data).ndim == 3


def test_ten_bit_avif_is_not_taken_for_eight() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(buffer, "AVIF")
    data = bytearray(buffer.getvalue())
    assert probe(bytes(data)).unsupported is None
    # The two boxes that tell of it; the header is all that is looked at.
    flags, depths = data.index(b"av1C") + 6, data.index(b"pixi") + 9
    for bit, bits in ((0x40, 10), (0x60, 12)):
        data[flags] = data[flags] & ~0x60 | bit
        data[depths : depths + 3] = bytes([bits] * 3)
        assert "8 bits" in (probe(bytes(data)).unsupported or "")


def test_limits_are_the_callers() -> None:
    header = probe(one_colour_png(100, 50), limits=PixelLimits(max_pixels=4999))
    assert header.unsupported
    assert (header.width, header.height) == (100, 50)
    assert probe(one_colour_png(100, 50), limits=PixelLimits(max_pixels=5000)).unsupported is None


def test_a_format_that_cannot_be_written_is_an_error() -> None:
    with pytest.raises(UnsupportedPhotoError, match="GIF"):
        write_photo(np.zeros((2, 2, 3), np.uint8), format="GIF", mode="RGB", metadata=PhotoMetadata())


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (64, 64), (65, 63)])
def test_padding_and_cropping_undo_each_other(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    padded = pad(pixels, 64)
    assert padded.shape[:2][::-1] == padded_size(size[1], size[0], 64)
    assert np.array_equal(padded[-1, -1], pixels[-1, -1])
    assert np.array_equal(crop(padded, size[1], size[0]), pixels)


def test_batches_hold_like_shapes_within_the_bound() -> None:
    shapes = [(100, 60), (90, 64), (200, 200), (128, 64), (10, 10), (1000, 1000)]
    groups = batches(shapes, multiple=64, max_pixels=2 * 128 * 64)
    assert sorted(i for group in groups for i in group) == list(range(len(shapes)))
    assert [0, 1] in groups
    assert [3] in groups
    assert [5] in groups
