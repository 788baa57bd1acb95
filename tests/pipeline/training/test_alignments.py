"""Guidance by text embeddings and the adversary: each by itself, and in a run that is broken off and resumed."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.errors import SettingError
from pipeline.training.adversarial import Adversary, adaptive_weight
from pipeline.training.config import LossWeights, TrainConfig
from pipeline.training.data import load_with_texts
from pipeline.training.guidance import Alignment
from pipeline.training.loop import train
from pipeline.training.record import LOG_NAME


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four crops of a real photo: embeddings beside them as .npy and as .json, a .json of something else, and none."""
    folder = tmp_path_factory.mktemp("captioned")
    photo = Image.open(sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))[0]).convert("RGB")
    for i in range(4):
        photo.crop((40 * i, 0, 40 * i + 160, 136 + i)).save(folder / f"{i}.jpg")
    np.save(folder / "0.npy", np.array([[1.0, 0.0, 0.0]]))
    (folder / "1.json").write_text(json.dumps({"caption": "a wall", "embedding": [0, 2, 0]}))
    (folder / "2.json").write_text(json.dumps({"caption": "a door"}))
    return folder


def test_text_embeddings_lie_beside_the_photos(folder: Path, tmp_path: Path) -> None:
    expected = [[1, 0, 0], [0, 2, 0], [0, 0, 0], [0, 0, 0]]
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for file in sorted(folder.iterdir(), reverse=True):
            tar.add(file, arcname=file.name)
    for source in (folder, tmp_path / "photos.tar"):
        photos = load_with_texts([source], min_side=1)
        assert photos.texts is not None and photos.texts.dtype == np.float32
        rows = {pixels.shape[0] - 136: text.tolist() for pixels, text in zip(photos.pixels, photos.texts, strict=True)}
        assert [rows[i] for i in range(4)] == expected
    single = load_with_texts([folder / "1.jpg"], min_side=1)
    assert single.texts is not None and single.texts.tolist() == [[0, 2, 0]]
    assert load_with_texts([folder / "3.jpg"], min_side=1).texts is None


def test_embeddings_of_two_models_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "3.jpg").write_bytes((folder / "3.jpg").read_bytes())
    (tmp_path / "3.json").write_text("[1, 2]")
    with pytest.raises(SettingError, match="2 to 3 numbers"):
        load_with_texts([folder, tmp_path], min_side=1)


def test_guidance_is_clips_contrast() -> None:
    alignment = Alignment(4, 2)
    with torch.no_grad():
        alignment.project.weight.copy_(torch.eye(2, 4))
        alignment.project.bias.zero_()
        alignment.log_scale.fill_(math.log(2))
    text = torch.eye(2)
    condition = torch.zeros(2, 3, 4)
    condition[0, :, 0] = condition[1, :, 1] = 5
    agreeing = alignment(condition, text).item()
    assert agreeing == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)
    assert alignment(condition.flip(0), text).item() == pytest.approx(math.log(1 + math.exp(2)), rel=1e-5)
    # Photos without a text do not take part, and crops of one photo are not held against each other.
    more = torch.cat([condition, torch.randn(1, 3, 4)])
    assert alignment(more, torch.cat([text, torch.zeros(1, 2)])).item() == pytest.approx(agreeing, rel=1e-5)
    twice = alignment(torch.cat([condition, condition[:1]]), torch.cat([text, text[:1]])).item()
    assert twice == pytest.approx((2 * math.log(1 + math.exp(-2)) + math.log(1 + 2 * math.exp(-2))) / 3, rel=1e-5)
    for few in (text[:1].expand(2, -1), torch.zeros(2, 2)):
        nothing = alignment(condition, few)
        nothing.backward()
        assert nothing.item() == 0


def test_the_discriminator_learns_to_tell_and_the_codec_to_leave_it_undecided() -> None:
    torch.manual_seed(0)
    adversary = Adversary(learning_rate=1e-3, device="cpu")
    x, last = torch.rand(2, 3, 64, 64) * 2 - 1, torch.full((3, 1, 1, 1), 0.5, requires_grad=True)
    features = torch.nn.functional.avg_pool2d(x.mean(1, keepdim=True), 5, 1, 2)
    losses = [adversary.learn(x, torch.nn.functional.conv2d(features, last)).item() for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    x_hat = torch.nn.functional.conv2d(features, last)
    distortion = (x_hat - x).square().mean()
    pull, bare = adversary.term(x_hat, distortion, last)
    # However steep the discriminator is, it pulls as the distortion does.
    lengths = [torch.autograd.grad(term, last, retain_graph=True)[0].norm().item() for term in (distortion, pull)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.02)
    assert bare.item() > 0 and pull.item() > 0
    assert all(p.grad is None or not p.requires_grad for p in adversary.discriminator.parameters())
    assert adaptive_weight(distortion, 0 * distortion, last).item() <= 1e4


def test_a_run_with_all_of_them_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    def settings(out: Path, steps: int, share: float) -> TrainConfig:
        return TrainConfig(
            sources=(folder,), out=out, num_steps=steps, batch_size=3, crop_size=128, cooldown_share=0.0, warmup_steps=1,
            loss=LossWeights(ms_ssim=0, distillation=0.05, guidance=0.1, adversarial=0.5),
            guidance_until=1, adversarial_from=share, pruned_rate_weights=(0.3,), pruning_step=2,
            log_every=1, save_every=3, sample_every=2,
        )  # fmt: skip

    whole = train(settings(tmp_path / "whole", 5, 0.4), DiTICConfig.tiny())
    train(settings(tmp_path / "parts", 3, 2 / 3), DiTICConfig.tiny())
    parts = train(settings(tmp_path / "parts", 5, 0.4), DiTICConfig.tiny())
    a, b = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert a["run"]["rate_weights"] == b["run"]["rate_weights"] == (0.3,)
    for part, key in (("adversary", "discriminator"), ("guide", "alignment")):
        assert all(torch.equal(a[part][key][name], b[part][key][name]) for name in a[part][key])
    lines = [json.loads(line) for line in (tmp_path / "whole" / LOG_NAME).read_text().splitlines()]
    assert all({"mse", "distillation", "guidance"} <= line.keys() for line in lines)
    assert [{"adversarial", "discriminator"} <= line.keys() for line in lines] == [False, False, True, True, True]

    # What a run leaves to look at: four rows of an original and its one quality, and events.
    sheet = Image.open(tmp_path / "whole" / "samples" / "step-000004.png")
    assert sheet.size == (2 * 128 + 4, 4 * 128 + 3 * 4)
    first = np.asarray(sheet)[:128, :128]
    photos = load_with_texts([folder], min_side=1).pixels
    windows = [p[i : i + 128, j : j + 128] for p in photos for i in range(p.shape[0] - 127) for j in range(p.shape[1] - 127)]
    assert any(np.abs(first.astype(int) - w).max() <= 1 or np.abs(first.astype(int) - w[:, ::-1]).max() <= 1 for w in windows)
    events = b"".join(path.read_bytes() for path in (tmp_path / "whole" / "tensorboard").iterdir())
    assert all(name in events for name in (b"psnr", b"guidance", b"samples"))


def test_guidance_is_off_where_there_are_no_texts(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        sources=(folder / "3.jpg",), out=tmp_path, num_steps=1, batch_size=1, crop_size=128, log_every=1, sample_every=0,
        loss=LossWeights(ms_ssim=0, guidance=0.1),
    )  # fmt: skip
    lines: list[dict[str, float]] = []
    train(config, DiTICConfig.tiny(), lines.append)
    assert "guidance" not in lines[0]
    assert not (tmp_path / "samples").exists()
