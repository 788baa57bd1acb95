"""Train, break off, resume, freeze: through the same functions that the commands call."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.errors import CheckpointError, SettingError
from pipeline.training.checkpoint import CHECKPOINT_NAME, load_trained
from pipeline.training.config import LossWeights, TrainConfig
from pipeline.training.crops import NO_PHOTO, Crops, CropSource, draw
from pipeline.training.data import load_photos
from pipeline.training.freeze import freeze
from pipeline.training.loop import train
from pipeline.training.record import LOG_NAME

PHOTOS = Path(__file__).parents[2] / "photos"


@pytest.fixture(scope="module")
def photo_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crops of a real photo and a text file, as a tar."""
    folder = tmp_path_factory.mktemp("photos")
    photo = Image.open(sorted(PHOTOS.glob("*.jpg"))[0]).convert("RGB")
    for i in range(4):
        photo.crop((40 * i, 0, 40 * i + 200, 160)).save(folder / f"{i}.jpg")
    (folder / "notes.txt").write_text("not a photo")
    path = folder / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for file in [*sorted(folder.glob("*.*g")), folder / "notes.txt"]:
            tar.add(file, arcname=file.name)
    return path


def settings(out: Path, source: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        sources=(source,), out=out, num_steps=steps, batch_size=2, crop_size=128, loss=LossWeights(ms_ssim=0),
        cooldown_share=0.0, log_every=2, save_every=3,
    )  # fmt: skip


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(photo_tar: Path, tmp_path: Path) -> None:
    whole = train(settings(tmp_path / "whole", photo_tar, 6), DiTICConfig.tiny())
    train(settings(tmp_path / "parts", photo_tar, 3), DiTICConfig.tiny())
    parts = train(settings(tmp_path / "parts", photo_tar, 6), DiTICConfig.tiny())
    a, b = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert a["step"] == b["step"] == 6
    for part in ("model", "ema"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    assert any(not torch.equal(a["model"][name], a["ema"][name]) for name in a["model"])
    lines = [json.loads(line) for line in (tmp_path / "whole" / LOG_NAME).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all({"loss", "bpp", "psnr"} <= line.keys() for line in lines)


def test_training_lowers_the_loss_and_the_frozen_checkpoint_codes_photos(photo_tar: Path, tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    config = TrainConfig(
        sources=(photo_tar,), out=tmp_path, num_steps=40, batch_size=2, crop_size=128, loss=LossWeights(ms_ssim=0),
        synthetic_share=0, warmup_steps=5, learning_rate=2e-3, ema_decay=0.8, log_every=10, save_every=40,
    )  # fmt: skip
    checkpoint = train(config, DiTICConfig.tiny(), lines.append)
    assert lines[-1]["loss"] < lines[0]["loss"]
    photos = load_photos([photo_tar], min_side=1)
    report = freeze(checkpoint, tmp_path / "tiny.safetensors", photos)
    # Payloads grow by words of four bytes: one of them is 1.3 percent here.
    assert abs(report.rate_cost_percent) < 3
    codec = DiTICCodec.load(tmp_path / "tiny.safetensors")
    assert codec.info.model == report.fingerprint
    assert codec.decode(codec.encode(photos[:1]))[0].shape == photos[0].shape


def test_files_that_are_no_photos_are_left_out(photo_tar: Path) -> None:
    assert [p.shape for p in load_photos([photo_tar], min_side=1)] == [(160, 200, 3)] * 4


def test_no_usable_photo_is_a_setting_error(photo_tar: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="at least 300 pixels"):
        load_photos([photo_tar], min_side=300)
    with pytest.raises(SettingError, match="no such file"):
        load_photos([tmp_path / "absent"], min_side=1)


def drawn_from(photos: list[np.ndarray], *, num_crops: int, size: int, synthetic_share: float = 0.0) -> Crops:
    source, rng = CropSource(photos, device="cpu"), np.random.default_rng(0)
    return source.cut(draw(source.sizes, num_crops=num_crops, size=size, rng=rng, synthetic_share=synthetic_share), size)


def test_crops_come_from_the_photos() -> None:
    photo = np.arange(40 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 50, 3)
    drawn = drawn_from([photo[:20], photo], num_crops=4, size=16)
    crops = drawn.pixels.numpy()
    assert crops.shape == (4, 3, 16, 16)
    assert set(drawn.photos) <= {0, 1}
    windows = [photo[i : i + 16, j : j + 16].transpose(2, 0, 1) for i in range(25) for j in range(35)]
    for crop in crops:
        assert any(np.array_equal(w, crop) or np.array_equal(w[:, :, ::-1], crop) for w in windows)


def test_synthetic_pictures_are_of_every_kind_and_no_crops() -> None:
    photo = np.full((64, 64, 3), 77, np.uint8)
    batch = drawn_from([photo], num_crops=200, size=64, synthetic_share=0.5)
    crops = batch.pixels.numpy()
    assert [bool((crop == 77).all()) for crop in crops] == [photo != NO_PHOTO for photo in batch.photos]
    drawn = [crop for crop in crops if (crop != 77).any()]
    assert 70 < len(drawn) < 130
    num_colours = [len(np.unique(crop.reshape(3, -1), axis=1).T) for crop in drawn]
    assert num_colours.count(1) > 10  # flat
    assert num_colours.count(2) > 10  # squares and stripes
    assert sum(count > 20 for count in num_colours) > 20  # ramps, and the soft edges of text


def test_a_wrong_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        load_trained(tmp_path / CHECKPOINT_NAME)


def test_a_crop_size_that_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="multiple of 64"):
        train(TrainConfig(sources=(tmp_path,), out=tmp_path, crop_size=200), DiTICConfig.small())
    with pytest.raises(SettingError, match="more than 160"):
        TrainConfig(sources=(tmp_path,), out=tmp_path, crop_size=128)
    with pytest.raises(SettingError, match="codes at 4 rates"):
        train(TrainConfig(sources=(tmp_path,), out=tmp_path, rate_weights=(0.1, 0.2)), DiTICConfig.small())
