"""One photo back, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.registry import get_codec
from pipeline.decode.restore import restore
from pipeline.errors import CorruptStreamError, PhotoError, UnknownModelError
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.records import EncodedPhoto, Outcome


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> str:
    data = photo_files["brushes.jpg"]
    header = probe(data)
    (stream,) = get_codec("webp").encode([read_pixels(data, header)])

    def row(key: str, image: bytes | None, codec: str, outcome: Outcome, model: str | None = None) -> EncodedPhoto:
        return EncodedPhoto(
            key=key, image=image, codec=codec, model=model, outcome=outcome, source_uri=key, source_bytes=len(data),
            reason="the file is empty" if image is None else None, format=header.format, mode=header.mode,
            width=header.width, height=header.height, exif=header.metadata.exif,
        )  # fmt: skip

    url = str(tmp_path_factory.mktemp("restore") / "archive")
    rows = [
        row("photo.jpg", stream, "webp", Outcome.ENCODED),
        row("kept.jpg", data, "original", Outcome.KEPT),
        row("failed.jpg", None, "webp", Outcome.FAILED),
        row("broken.jpg", stream[:100], "webp", Outcome.ENCODED),
        row("later.jpg", stream, "sodec", Outcome.ENCODED),
        row("other.jpg", stream, "ditic-small", Outcome.ENCODED, model="0" * 16),
    ]
    ArchiveWriter.open_or_create(url).commit(rows)
    return url


def test_an_encoded_photo_comes_back_upright_with_its_exif(archive: str) -> None:
    header = probe(restore(archive, "photo.jpg").data)
    assert (header.format, header.width, header.height, header.orientation) == ("JPEG", 515, 900, 1)
    assert header.metadata.exif


def test_another_format_can_be_asked_for(archive: str) -> None:
    assert probe(restore(archive, "photo.jpg", format="PNG").data).format == "PNG"


def test_a_kept_photo_comes_back_byte_for_byte(archive: str, photo_files: dict[str, bytes]) -> None:
    assert restore(archive, "kept.jpg").data == photo_files["brushes.jpg"]


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("failed.jpg", PhotoError, "the file is empty"),
        ("broken.jpg", CorruptStreamError, "cannot be decoded"),
        ("later.jpg", UnknownModelError, "update"),
        ("other.jpg", UnknownModelError, "weights"),
    ],
)
def test_what_cannot_be_restored_says_why_and_names_the_photo(
    archive: str, key: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        restore(archive, key)
    if key != "other.jpg":
        assert key in str(caught.value)


def test_restoring_starts_no_ray(archive: str, tmp_path: Path) -> None:
    code = f"""
import sys
from photoark import restore
open({str(tmp_path / "out.jpg")!r}, "wb").write(restore({archive!r}, "photo.jpg").data)
assert "ray" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "out.jpg").stat().st_size > 10_000
