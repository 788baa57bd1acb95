"""The public door: `import photoark`, as somebody does who installed it."""

from __future__ import annotations

import doctest
import inspect
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import photoark
from pipeline.pixels.formats.reader import read_pixels

PHOTOS = Path(__file__).parents[1] / "photos"
pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_session: object) -> Path:
    """Two photos, and an archive of them, under the names that the examples of the docstrings use."""
    folder = tmp_path_factory.mktemp("door")
    (folder / "photos").mkdir()
    for name, colour in (("a.jpg", (200, 30, 30)), ("b.jpg", (30, 30, 200))):
        pixels = np.random.default_rng(0).integers(0, 30, (12, 16, 3), dtype=np.uint8) + np.array(colour, np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(folder / "photos" / name, quality=95)
    photoark.encode(folder / "photos", folder / "archive", codec="webp")
    return folder


def public() -> list[object]:
    return [value for name, value in ((name, getattr(photoark, name)) for name in photoark.__all__)]


def examples() -> list[doctest.DocTest]:
    ours = [value for value in public() if (inspect.getmodule(value) or photoark).__name__.startswith("photoark")]
    found = [test for value in ours for test in doctest.DocTestFinder().find(value, value.__name__, globs={})]  # type: ignore[attr-defined]
    return [test for test in found if test.examples]


def test_every_public_name_is_there_and_documented() -> None:
    assert len(set(photoark.__all__)) == len(photoark.__all__)
    assert [name for name in photoark.__all__ if not inspect.getdoc(getattr(photoark, name))] == []
    assert (Path(photoark.__file__).parent / "py.typed").is_file()
    for function in (photoark.encode, photoark.decode, photoark.restore, photoark.open):
        text = inspect.getdoc(function) or ""
        arguments = inspect.signature(function).parameters
        assert [name for name in arguments if name not in text] == []


@pytest.mark.parametrize("example", examples(), ids=lambda test: test.name)
def test_the_example_of_a_docstring_does_what_it_shows(
    example: doctest.DocTest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(said)


def test_an_archive_is_a_mapping(folder: Path) -> None:
    with photoark.open(folder / "archive") as archive:
        assert "a.jpg" in archive
        assert "c.jpg" not in archive
        assert archive.get("c.jpg") is None
        with pytest.raises(KeyError, match=r"c\.jpg: the archive holds no such photo"):
            archive["c.jpg"]
        photo = archive["a.jpg"]
        source = read_pixels((folder / "photos" / "a.jpg").read_bytes())
        assert np.abs(photo.pixels.astype(int) - source).mean() < 10
        assert photo.bytes() == photoark.restore(folder / "archive", "a.jpg").data
        assert np.array_equal(np.asarray(photo.image()), photo.pixels)
        with pytest.raises(photoark.PhotoError, match="own bytes were not stored"):
            photo.original()
        (batch,) = archive.batches(8, keys=["b.jpg", "a.jpg"])
        assert [photo.key for photo in batch] == ["b.jpg", "a.jpg"]
        assert np.array_equal(batch[1].pixels, photo.pixels)
        assert [photo.key for photo in archive.sample(5, seed=1)] != []
        frame = archive.to_pandas(["key", "width", "height"])
        assert frame.width.tolist() == [160, 160]
        assert "image" not in archive.to_arrow().column_names


def test_files_that_are_kept_or_failed_are_what_they_are(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    (source / "notes.txt").write_bytes(b"no photo")
    (source / "empty.jpg").write_bytes(b"")
    Image.new("RGBA", (8, 6), (1, 2, 3, 4)).save(source / "alpha.png")
    summary = photoark.encode(source, tmp_path / "archive", codec="webp")
    assert not summary.is_complete
    assert summary.failures == [("empty.jpg", "the file is empty")]
    with photoark.open(tmp_path / "archive") as archive:
        assert archive["alpha.png"].image().mode == "RGBA"
        assert archive["notes.txt"].bytes() == archive["notes.txt"].original() == b"no photo"
        with pytest.raises(photoark.PhotoError, match="kept as its bytes, and no picture"):
            archive["notes.txt"].image()
        with pytest.raises(photoark.PhotoError, match="the file is empty"):
            archive["empty.jpg"].bytes()
        assert [[photo.key for photo in batch] for batch in archive.batches()] == [["alpha.png", "notes.txt"]]


def test_a_wrong_setting_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(photoark.SettingError, match="no codec is called"):
        photoark.encode(folder / "photos", tmp_path / "archive", codec="png")
    with pytest.raises(photoark.SettingError, match="leave quality out"):
        photoark.encode(folder / "photos", tmp_path / "archive", ladder="webp:60,avif:60", quality=3)
    with pytest.raises(photoark.ArchiveNotFoundError, match="there is no archive"):
        photoark.open(tmp_path / "archive")
