"""Every term of the objective: what it measures, and that its weight switches it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from pipeline.codecs.ditic.latent_codec import Coded
from pipeline.codecs.ditic.model import Output
from pipeline.errors import SettingError
from pipeline.quality.learned import LPIPS
from pipeline.training.config import LossWeights, TrainConfig
from pipeline.training.distortion import Distortion
from pipeline.training.losses import Objective
from pipeline.training.self_distillation import margin_cosine

NONE = dict.fromkeys((each.name for each in fields(LossWeights)), 0.0)


def settings(**weights: float) -> TrainConfig:
    return TrainConfig(sources=(), out=Path(), loss=LossWeights(**{**NONE, **weights}))


def output(x_hat: torch.Tensor, *, likelihood: float = 0.5) -> Output:
    lat = torch.ones(len(x_hat), 4, 2, 2)
    coded = Coded(
        y_hat=lat, scales=lat,
        y_likelihoods=torch.full((len(x_hat), 4, 2, 2), likelihood), z_likelihoods=torch.ones(len(x_hat), 1),
    )  # fmt: skip
    return Output(x_hat=x_hat, lat=lat, x0=-lat, condition=lat, coded=coded)


def test_rate_and_squared_error_are_weighed_by_the_root_of_the_rate_weights() -> None:
    x = torch.zeros(2, 3, 192, 192)
    weights = torch.tensor([0.08, 0.02])
    loss = Objective(settings(mse=1))(x, output(x + 0.1), torch.tensor([0, 1]), weights)
    bpp = 16 / 192**2
    expected = ((0.08 * bpp + 0.01) * 0.5 + 0.02 * bpp + 0.01) / 2
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert float(loss.bpp) == pytest.approx(bpp)
    assert float(loss.psnr()) == pytest.approx(10 * torch.tensor(4 / 0.01).log10().item(), abs=1e-3)
    assert set(loss.terms) == {"mse"}


def test_the_defaults_are_squared_error_and_ms_ssim() -> None:
    assert {name for name in NONE if getattr(LossWeights(), name)} == {"mse", "ms_ssim", "auxiliary"}
    assert (LossWeights().mse, LossWeights().ms_ssim) == (1.0, 0.08)


@pytest.mark.parametrize("name", ["mse", "ms_ssim", "perceptual"])
def test_a_term_grows_with_the_error_and_is_differentiable(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 176, 176, generator=generator) * 1.6 - 0.8
    noise = torch.randn(x.shape, generator=generator)
    distortion = Distortion(LossWeights(**{**NONE, name: 1.0}))
    assert not any(p.requires_grad for p in distortion.parameters())
    x_hat = (x + 0.1 * noise).requires_grad_()
    little, much = distortion(x, x_hat)[name], distortion(x, x + 0.3 * noise)[name]
    assert little.shape == (2,)
    assert (little > 0).all() and (little < much).all()
    assert float(distortion(x, x)[name].abs().max()) < 1e-5
    little.sum().backward()
    assert x_hat.grad is not None and float(x_hat.grad.abs().sum()) > 0


def test_lpips_and_dists_are_read_from_the_files_that_the_user_has(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="LPIPS as a loss needs its weights"):
        Objective(settings(lpips=1))
    with pytest.raises(SettingError, match="DISTS as a loss needs its weights"):
        Objective(settings(dists=0.2))
    state: dict[str, torch.Tensor] = {}
    for i, (n, m, size) in enumerate(((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))):
        state |= {f"net.{i}.weight": torch.randn(m, n, size, size) * 0.02, f"net.{i}.bias": torch.zeros(m)}
        state |= {f"lin{i}.model.1.weight": torch.ones(1, m, 1, 1)}
    torch.save(state, tmp_path / "lpips.pth")
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    found = Distortion(LossWeights(**{**NONE, "lpips": 1.0}), lpips_file=tmp_path / "lpips.pth")(x, 0.5 * x)["lpips"]
    assert torch.allclose(found, LPIPS.load(tmp_path / "lpips.pth")((x + 1) / 2, (0.5 * x + 1) / 2))


def test_the_margin_cosine_lets_go_within_its_margin_and_teaches_the_decoder_alone() -> None:
    lat = torch.tensor([[1.0, 0.0]])[:, :, None, None].requires_grad_()
    x0 = torch.tensor([[0.0, 3.0]])[:, :, None, None].requires_grad_()
    loss = margin_cosine(x0, lat, margin=0.4)
    assert loss.item() == pytest.approx(0.6)
    loss.backward()
    assert lat.grad is None
    assert x0.grad is not None and float(x0.grad[0, 0]) < 0
    # 60 degrees are within a margin of a half, whatever the length.
    near = torch.tensor([[1.01, 3**0.5]])[:, :, None, None] * 7
    assert float(margin_cosine(near, lat, margin=0.5)) == 0


def test_distillation_is_added_once_for_the_batch() -> None:
    x = torch.zeros(1, 3, 192, 192)
    without = Objective(settings(mse=1))(x, output(x), torch.tensor([0]), torch.ones(1)).total
    loss = Objective(settings(mse=1, distillation=0.05))(x, output(x), torch.tensor([0]), torch.ones(1))
    assert float(loss.terms["distillation"]) == pytest.approx(1.5)
    assert float(loss.total - without) == pytest.approx(0.05 * 1.5)


def test_the_second_stage_has_rate_weights_of_its_own() -> None:
    config = TrainConfig(sources=(), out=Path(), rate_weights=(0.1, 0.05), pruned_rate_weights=(0.4, 0.2), pruning_step=10)
    assert config.rate_weights_of(2, 9) == (0.1, 0.05)
    assert config.rate_weights_of(2, 10) == (0.4, 0.2)
    assert settings().rate_weights_of(2, 10) == (0.042, 0.02)
    with pytest.raises(SettingError, match="both its rate weights and its first step"):
        TrainConfig(sources=(), out=Path(), pruning_step=10)
    with pytest.raises(SettingError, match="0 or more"):
        LossWeights(mse=-1)
