"""JPEG XL at quality 100 gives pixels back exactly and JPEG files bit for bit; and no stream is larger than its file."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import read_rows
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.container_check import check_container
from pipeline.codecs.points import parse_ladder
from pipeline.codecs.registry import CodecOptions
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import file_of, is_transcoded, restore
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.read import read_block
from pipeline.encode.worker import EncodeWorker
from pipeline.errors import ArchiveDamagedError, CorruptStreamError
from pipeline.on_ray.work import split_work
from pipeline.pixels.formats.probe import probe
from pipeline.quality.gate import parse_gate
from pipeline.records import EncodedPhoto, KeepOriginal, Outcome, encoded_from_table, photos_to_table
from pipeline.sources.folder import list_photos

LOSSLESS = CodecOptions(quality=100)
TRANSCODED = (
    "end.jpg",
    "grey.jpg",
    "motion.jpg",
    "plain.jpg",
    "progressive.jpg",
    "segments.jpg",
    "several.mpo",
    "turned.jpg",
)
EXACT = ("grey.png", "photo.tiff", "photo.png", "photo.webp")


def saved(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(photo_files: dict[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(photo_files["bridge.jpg"])).convert("RGB").resize((480, 270))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image, photo_files: dict[str, bytes]) -> Path:
    """JPEG files of many kinds, and pixels in other containers."""
    folder = tmp_path_factory.mktemp("source")
    plain = saved(photo)
    turned = Image.Exif()
    turned[0x0112] = 6
    thermal = b"\xff\xe1\x20\x00" + (b"FLIR\0" + bytes(range(256)) * 32)[: 0x2000 - 2]
    files = {
        "plain.jpg": photo_files["wine.jpg"],
        "grey.jpg": saved(photo.convert("L")),
        "progressive.jpg": saved(photo, progressive=True, subsampling=0),
        "turned.jpg": saved(photo, exif=turned.tobytes()),
        "segments.jpg": plain[:2] + thermal + plain[2:],
        "motion.jpg": plain + b"\0\0\0\x18ftypmp42" + bytes(2000),
        "end.jpg": plain + b"PK\x03\x04" + bytes(range(256)),
        "several.mpo": saved(photo, "MPO", save_all=True, append_images=[photo.rotate(1)]),
        "cmyk.jpg": saved(photo.convert("CMYK")),
        "tiny.jpg": saved(Image.new("RGB", (8, 8), (20, 40, 60))),
        "photo.png": photo_files["sunset.png"],
        "photo.tiff": photo_files["seeding.tiff"],
        "photo.webp": saved(photo, "WEBP", lossless=True),
        "grey.png": saved(photo.convert("L"), "PNG"),
        "lossy.webp": saved(photo, "WEBP", quality=30),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def worked(source: Path, folder: Path, **options: Any) -> str:
    """An archive of what one worker makes of `source`, without Ray."""
    job = EncodeJob(source=str(source), archive=str(folder / "archive"), **options)
    table = EncodeWorker(job.settings())(read_block(photos_to_table(list_photos(job.source))))
    ArchiveWriter.open_or_create(job.archive).commit(encoded_from_table(split_work(table)[0]))
    return job.archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, source: Path) -> str:
    return worked(source, tmp_path_factory.mktemp("lossless"), codec="jxl", options=LOSSLESS)


def pixels_of(data: bytes) -> np.ndarray:
    """As displayed, of the first picture."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def rows_of(archive: str) -> dict[str, EncodedPhoto]:
    return {row.key: row for row in read_rows(ArchiveWriter.open(archive))}


def test_jpeg_files_come_back_bit_for_bit_from_smaller_streams(archive: str, source: Path) -> None:
    rows = rows_of(archive)
    for key in TRANSCODED:
        row, file = rows[key], (source / key).read_bytes()
        assert (row.outcome, row.codec, row.reason) == (Outcome.ENCODED, "jxl", None), key
        assert row.source_sha256 == hashlib.sha256(file).hexdigest()
        assert len(row.image or b"") < len(file)
        assert restore(archive, key).data == restore(archive, key, original=True).data == file
        png, file_png = (pixels_of(data) for data in (restore(archive, key, format="PNG").data, file))
        assert np.array_equal(png, file_png), key


def test_a_job_restores_them_as_files_and_in_other_formats(
    archive: str, source: Path, tmp_path: Path, ray_session: None
) -> None:
    assert decode(DecodeJob(archive=archive, destination=str(tmp_path / "all"))).num_failed == 0
    assert decode(DecodeJob(archive=archive, destination=str(tmp_path / "png"), format="PNG")).num_failed == 0
    for key in TRANSCODED:
        assert (tmp_path / "all" / key).read_bytes() == (source / key).read_bytes()
        png = (tmp_path / "png" / key).read_bytes()
        assert png.startswith(b"\x89PNG")
        assert np.array_equal(pixels_of(png), pixels_of((source / key).read_bytes())), key


def test_pixels_of_other_files_come_back_exactly_in_their_own_format(archive: str, source: Path) -> None:
    rows = rows_of(archive)
    for key in EXACT:
        assert (rows[key].outcome, rows[key].codec) == (Outcome.ENCODED, "jxl"), key
        back = restore(archive, key).data
        assert probe(back).format == rows[key].format
        assert np.array_equal(pixels_of(back), pixels_of((source / key).read_bytes())), key


def test_a_file_that_cannot_be_transcoded_is_kept_and_its_row_says_why(archive: str, source: Path) -> None:
    row = rows_of(archive)["cmyk.jpg"]
    assert (row.outcome, row.image) == (Outcome.KEPT, (source / "cmyk.jpg").read_bytes())
    assert "CMYK" in (row.reason or "")
    assert "jxl:100 cannot take the file whole" in (row.reason or "")


def test_a_stream_that_is_not_smaller_gives_way_to_the_file(archive: str, source: Path) -> None:
    for key in ("tiny.jpg", "lossy.webp"):
        row, file = rows_of(archive)[key], (source / key).read_bytes()
        assert (row.outcome, row.codec, row.image) == (Outcome.KEPT, "original", file)
        made, of = [int(word) for word in (row.reason or "").split() if word.isdigit()]
        assert (row.reason or "").startswith("jxl:100 made ")
        assert made >= of == len(file)


def test_verify_makes_the_files_again_and_sees_what_is_not_the_source(archive: str, tmp_path: Path) -> None:
    def check(row: EncodedPhoto) -> None:
        file_of(row, None)

    row = rows_of(archive)["plain.jpg"]
    assert verify(ArchiveWriter.open(archive), check=check_container).is_clean
    assert is_transcoded(row)
    with pytest.raises(ArchiveDamagedError, match="SHA-256"):
        file_of(replace(row, source_sha256="0" * 64), None)
    with pytest.raises(CorruptStreamError, match="cannot be decoded"):
        file_of(replace(row, image=(row.image or b"")[:-5000]), None)
    with pytest.raises(CorruptStreamError, match="width"):
        check_container(replace(row, width=123))
    wrong = str(tmp_path / "wrong")
    ArchiveWriter.open_or_create(wrong).commit([replace(row, source_sha256="0" * 64)])
    assert [damage.keys for damage in verify(ArchiveWriter.open(wrong), check).damages] == [("plain.jpg",)]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    """A photo with a position, one without, a picture that grows, and one that is more than its pixels."""
    folder = tmp_path_factory.mktemp("few")
    position = Image.Exif()
    position[0x8825] = {1: "N", 2: (50.0, 30.0, 0.0), 3: "E", 4: (7.0, 0.0, 0.0)}
    (folder / "placed.jpg").write_bytes(saved(photo, exif=position.tobytes()))
    (folder / "plain.jpg").write_bytes(saved(photo))
    (folder / "small.png").write_bytes(saved(Image.new("L", (200, 200), 9), "PNG"))
    (folder / "motion.jpg").write_bytes(saved(photo) + b"\0\0\0\x18ftypmp42" + bytes(2000))
    return folder


def test_a_position_that_is_to_be_left_out_does_not_travel_in_a_transcoded_file(few: Path, tmp_path: Path) -> None:
    url = worked(few, tmp_path, codec="jxl", options=LOSSLESS, strip_gps=True)
    rows = rows_of(url)
    assert restore(url, "plain.jpg").data == (few / "plain.jpg").read_bytes()
    assert (rows["placed.jpg"].outcome, rows["placed.jpg"].codec) == (Outcome.ENCODED, "jxl")
    assert not is_transcoded(rows["placed.jpg"])  # larger than the file, which may not stand
    assert len(rows["placed.jpg"].image or b"") > (few / "placed.jpg").stat().st_size
    assert 0x8825 not in Image.open(io.BytesIO(restore(url, "placed.jpg").data)).getexif()


def test_a_larger_stream_gives_way_once_the_file_may_be_kept(few: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(few), archive="unused", ladder=parse_ladder("webp:100"), keep_original=KeepOriginal.NEVER)
    rows = rows_of(worked(few, tmp_path, ladder=job.ladder, keep_original=job.keep_original))
    assert {key: row.recipe for key, row in rows.items()} == {
        "placed.jpg": "webp:100 keep=never", "plain.jpg": "webp:100 keep=never", "small.png": "webp:100", "motion.jpg": None,
    }  # fmt: skip
    encoded = [rows[key] for key in ("placed.jpg", "plain.jpg", "small.png")]
    assert [job.settings().recipe().made(row) for row in encoded] == [True] * 3
    keeping = replace(job, keep_original=KeepOriginal.KEPT).settings().recipe()
    assert [keeping.made(row) for row in encoded] == [False, False, True]


def test_each_rung_that_makes_more_of_a_file_is_passed_over(few: Path, tmp_path: Path) -> None:
    url = worked(few, tmp_path, ladder=parse_ladder("jpeg:100,webp:100,jxl:100"))
    rows = rows_of(url)
    size = (few / "plain.jpg").stat().st_size
    for key in ("plain.jpg", "placed.jpg", "motion.jpg"):  # the last has no pixel codec, and still one that takes files
        assert restore(url, key).data == (few / key).read_bytes()
        assert (rows[key].codec, rows[key].psnr) == ("jxl", None)
    reason = rows["plain.jpg"].reason or ""
    assert reason.count(f"bytes of {size}") == 2
    assert reason.startswith("jpeg:100 made ")
    assert "; webp:100 made " in reason
    # Among others' pixels nothing changes: the first rung that is smaller serves.
    assert (rows["small.png"].outcome, rows["small.png"].codec) == (Outcome.ENCODED, "webp")


def test_a_gate_does_not_measure_what_comes_back_bit_for_bit(few: Path, tmp_path: Path) -> None:
    rows = rows_of(worked(few, tmp_path, codec="jxl", options=LOSSLESS, gate=parse_gate("psnr=99,ms_ssim=1")))
    assert (rows["plain.jpg"].codec, rows["plain.jpg"].psnr) == ("jxl", None)
    assert (rows["small.png"].codec, rows["small.png"].psnr) == ("jxl", float("inf"))


def test_without_kept_originals_the_larger_stream_stays(few: Path, tmp_path: Path) -> None:
    rows = rows_of(worked(few, tmp_path, ladder=parse_ladder("webp:100"), keep_original=KeepOriginal.NEVER))
    assert [key for key, row in rows.items() if row.outcome is Outcome.FAILED] == ["motion.jpg"]  # it has no stream
    row = rows["plain.jpg"]
    assert (row.outcome, row.codec) == (Outcome.ENCODED, "webp")
    assert len(row.image or b"") > row.source_bytes


def test_a_file_that_its_stream_gives_back_is_not_stored_beside_it(few: Path, tmp_path: Path) -> None:
    url = worked(few, tmp_path, codec="jxl", options=LOSSLESS, keep_original=KeepOriginal.ALWAYS)
    rows = rows_of(url)
    assert rows["plain.jpg"].original is None
    assert rows["small.png"].original == (few / "small.png").read_bytes()
    for file in few.iterdir():
        assert restore(url, file.name, original=True).data == file.read_bytes()


def test_files_kept_by_a_codec_of_pixels_are_of_another_recipe_where_they_can_be_transcoded(
    archive: str, few: Path, tmp_path: Path
) -> None:
    kept = rows_of(worked(few, tmp_path, codec="webp"))["motion.jpg"]
    lossless, lossy = (EncodeJob(source="", archive="", codec=codec, options=LOSSLESS) for codec in ("jxl", "webp"))
    assert kept.outcome is Outcome.KEPT
    assert lossy.settings().recipe().made(kept)
    assert lossless.settings().recipe().made(kept) is False
    for row in rows_of(archive).values():
        assert lossless.settings().recipe().made(row), row.key
