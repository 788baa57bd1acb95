"""A folder into an archive and back, through Ray Data, on this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import Archive, read_rows
from pipeline.codecs.registry import CodecOptions
from pipeline.decode.job import DecodeJob
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.errors import CheckpointError, SettingError
from pipeline.patterns import KeyPatterns
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.progress import Progress
from pipeline.records import Outcome
from pipeline.storage.base import Storage
from tests.bad_photos import write_bad_photos

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def source(tmp_path: Path, photo_files: dict[str, bytes]) -> Path:
    """The sample photos in two folders, with a time of their own."""
    folder = tmp_path / "photos"
    for i, (name, data) in enumerate(photo_files.items()):
        path = folder / ("2023" if i % 2 else "2024") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (1_600_000_000 + i,) * 2)
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_photos_come_back_with_key_format_metadata_and_time(source: Path, tmp_path: Path) -> None:
    before = tree(source)
    seen: list[Progress] = []
    waits: list[str] = []
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="webp", block_photos=5)
    summary = encode(job, seen.append, on_wait=waits.append)
    listing, comparing, *then = waits
    assert str(source) in listing and "12 photos" in comparing
    assert then == ["checking the codec", "starting Ray", "loading the codec; the first photos are on their way"]
    assert (summary.num_photos, summary.num_encoded, summary.num_failed) == (12, 12, 0)
    assert seen[-1].num_done == 12
    assert tree(source) == before

    archive = Archive.open(job.archive)
    rows = {row.key: row for row in read_rows(archive)}
    assert rows.keys() == before.keys()
    for key, row in rows.items():
        header = probe((source / key).read_bytes())
        assert (row.width, row.height, row.format, row.mode) == (
            header.width,
            header.height,
            header.format,
            header.mode,
        )
        assert row.source_sha256 == before[key]
        assert row.exif == header.metadata.exif
        assert row.bpp == pytest.approx(8 * len(row.image or b"") / (header.width * header.height), rel=1e-5)
    assert verify(archive).is_clean

    job_back = DecodeJob(archive=job.archive, destination=str(tmp_path / "restored"))
    restored = decode(job_back)
    assert (restored.num_restored, restored.num_failed) == (12, 0)
    again = decode(replace(job_back, resume=True), connect=lambda: pytest.fail("there is nothing to do on Ray"))
    assert (again.num_skipped, again.num_restored) == (12, 0)
    encode(job, connect=lambda: pytest.fail("there is nothing to do on Ray"))
    assert tree(tmp_path / "restored").keys() == before.keys()
    for key in before:
        original, back = source / key, tmp_path / "restored" / key
        assert back.stat().st_mtime == original.stat().st_mtime
        assert probe(back.read_bytes()).format == probe(original.read_bytes()).format
        error = np.square(read_pixels(original.read_bytes()).astype(float) - read_pixels(back.read_bytes())).mean()
        assert 10 * np.log10(255**2 / error) > 28


def test_the_same_job_again_does_only_what_is_new(source: Path, tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="webp")
    encode(job)
    again = encode(job)
    assert (again.num_skipped, again.num_encoded) == (12, 0)
    (source / "new.jpg").write_bytes(photo_files["wine.jpg"])
    third = encode(job)
    assert (third.num_skipped, third.num_encoded) == (12, 1)
    assert len(Archive.open(job.archive).keys()) == 13


def test_every_bad_file_has_its_row(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    source = tmp_path / "photos"
    expected = write_bad_photos(source, photo_files["wine.jpg"])
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="webp")
    summary = encode(job)
    rows = {row.key: row for row in read_rows(Archive.open(job.archive))}
    assert rows.keys() == expected.keys()
    for key, (outcome, reason) in expected.items():
        assert rows[key].outcome == outcome, (key, rows[key].reason)
        assert reason in (rows[key].reason or "")
    assert summary.num_failed == sum(outcome == "failed" for outcome, _ in expected.values())
    assert verify(Archive.open(job.archive)).is_clean

    restored = decode(DecodeJob(archive=job.archive, destination=str(tmp_path / "restored")))
    assert restored.num_failed == summary.num_failed
    kept = [key for key, (outcome, _) in expected.items() if outcome == "kept"]
    for key in kept:
        assert (tmp_path / "restored" / key).read_bytes() == (source / key).read_bytes()


def test_original_keeps_every_byte(source: Path, tmp_path: Path) -> None:
    job = EncodeJob(source=str(source), archive=str(tmp_path / "archive"), codec="original")
    summary = encode(job)
    assert summary.num_kept == 12
    decode(DecodeJob(archive=job.archive, destination=str(tmp_path / "restored")))
    assert tree(tmp_path / "restored") == tree(source)


def test_only_what_is_asked_for_is_restored_and_in_the_format_asked_for(source: Path, tmp_path: Path) -> None:
    archive = str(tmp_path / "archive")
    encode(EncodeJob(source=str(source), archive=archive, codec="webp"))
    job = DecodeJob(
        archive=archive, destination=str(tmp_path / "restored"), patterns=KeyPatterns(include=("2024/*.jpg",)), format="PNG"
    )
    summary = decode(job)
    files = tree(tmp_path / "restored")
    assert summary.num_restored == summary.num_photos == len(files) > 1
    assert summary.num_photos + summary.num_left_out == 12
    assert all(key.startswith("2024/") and key.endswith(".jpg") for key in files)
    assert all(probe((tmp_path / "restored" / key).read_bytes()).format == "PNG" for key in files)
    chosen = KeyPatterns(include=("2024/*.jpg", "*.heic", "*.png"), exclude=("*/[a-d]*", "*.png"))
    summary = decode(DecodeJob(archive=archive, destination=str(tmp_path / "several"), patterns=chosen))
    assert set(tree(tmp_path / "several")) == {key for key in tree(source) if chosen.takes(key)}
    assert (summary.num_restored, summary.num_left_out) == (len(tree(tmp_path / "several")), 12 - summary.num_photos)


def test_a_damaged_shard_is_told_for_each_photo(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    encode(EncodeJob(source=str(source), archive=str(archive), codec="webp"))
    (shard,) = Archive.open(str(archive)).shards()
    data = bytearray((archive / shard.path).read_bytes())
    row = next(iter(read_rows(Archive.open(str(archive)))))
    assert row.image is not None
    data[data.find(row.image) + len(row.image) // 2] ^= 1
    (archive / shard.path).write_bytes(data)
    summary = decode(DecodeJob(archive=str(archive), destination=str(tmp_path / "restored")))
    assert summary.num_failed == 12
    assert all("damaged" in reason for _, reason in summary.failures)


def test_wrong_settings_start_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no codec"):
        EncodeJob(source=str(source), archive=str(tmp_path / "a"), codec="jpeg2000")
    with pytest.raises(SettingError, match="does not exist"):
        encode(EncodeJob(source=str(tmp_path / "absent"), archive=str(tmp_path / "a"), codec="webp"))
    assert not (tmp_path / "a").exists()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        encode(EncodeJob(source=str(source), archive=str(tmp_path / "a"), options=CodecOptions(weights=broken)))


def test_the_small_model_encodes_and_restores(source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for name in ("wine.jpg", "seeding.tiff", "sunset.png"):
        shutil.copy2(next(source.rglob(name)), small / name)
    job = EncodeJob(source=str(small), archive=str(tmp_path / "archive"))
    assert encode(job).num_encoded == 3
    rows = list(read_rows(Archive.open(job.archive)))
    assert all(row.outcome is Outcome.ENCODED and row.codec == "ditic-small" and row.model for row in rows)
    assert decode(DecodeJob(archive=job.archive, destination=str(tmp_path / "restored"))).num_restored == 3
    for path in small.iterdir():
        original, back = read_pixels(path.read_bytes()), read_pixels((tmp_path / "restored" / path.name).read_bytes())
        assert original.shape == back.shape
        assert 10 * np.log10(255**2 / np.square(original.astype(float) - back).mean()) > 16


@pytest.mark.s3
def test_bucket_to_bucket(s3_url: str, photo_files: dict[str, bytes]) -> None:
    source = Storage(f"{s3_url}/photos")
    for name in ("wine.jpg", "picos de europa.jpg", "sunset.png", "seeding.tiff"):
        source.write(name, photo_files[name])
    job = EncodeJob(source=source.url, archive=f"{s3_url}/archive", codec="webp")
    assert encode(job).num_encoded == 4
    assert encode(job).num_skipped == 4
    assert verify(Archive.open(job.archive)).is_clean
    restored = Storage(f"{s3_url}/restored")
    assert decode(DecodeJob(archive=job.archive, destination=restored.url)).num_restored == 4
    for name in ("wine.jpg", "picos de europa.jpg", "sunset.png", "seeding.tiff"):
        assert read_pixels(restored.read(name)).shape == read_pixels(photo_files[name]).shape
