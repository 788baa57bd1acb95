"""Positions with a timestep of their own: monotonic in the variance, and SANA itself where all are the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.codecs.ditic.config import DiTICConfig, TransformerConfig
from pipeline.codecs.ditic.flow import build_transformer, one_step
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.pseudo_timestep import PacedTransformer, PseudoTimestep

SIZES = TransformerConfig(num_layers=2, num_heads=2, head_dim=8, num_cross_heads=2, cross_head_dim=8, patch_size=2)


def test_the_timestep_grows_with_the_variance_of_every_channel() -> None:
    pace = PseudoTimestep(4)
    torch.nn.init.normal_(pace.weight)
    logvar = torch.randn(1, 4, 1, 1).repeat(5, 1, 1, 1)
    for i in range(4):
        logvar[i + 1, i] += 1
    with torch.no_grad():
        t = pace(logvar)
    assert t.shape == (5, 1, 1, 1)
    assert (t[1:] > t[0]).all() and (t >= 0).all() and (t <= 999).all()
    assert pace(torch.full((1, 4, 1, 1), -60.0)).item() < 1
    assert pace(torch.full((1, 4, 1, 1), 60.0)).item() == 999


@pytest.mark.parametrize("patch_size", [1, 2])
def test_with_one_timestep_everywhere_it_is_sana(patch_size: int) -> None:
    torch.manual_seed(0)
    sizes = replace(SIZES, patch_size=patch_size)
    plain = build_transformer(sizes, latent_channels=4, caption_channels=6).eval()
    paced = build_transformer(replace(sizes, pseudo_timestep=True), latent_channels=4, caption_channels=6).eval()
    assert isinstance(paced, PacedTransformer) and not isinstance(plain, PacedTransformer)
    paced.load_state_dict(plain.state_dict() | {"pseudo_timestep.weight": torch.zeros(4)})
    x, condition = torch.randn(2, 4, 6, 8), torch.randn(2, 5, 6)
    with torch.no_grad():
        expected = plain(x, condition, torch.full((2,), 999))
        same = paced(x, condition, torch.full((2, 1, 6, 8), 999.0))
        other = paced(x, condition, torch.linspace(0, 999, 96).view(2, 1, 6, 8))
    assert torch.allclose(same, expected, atol=1e-5)
    assert not torch.allclose(other, expected, atol=1e-2)


def test_the_one_step_follows_the_variance_and_teaches_it() -> None:
    torch.manual_seed(0)
    transformer: Any = build_transformer(replace(SIZES, pseudo_timestep=True), latent_channels=4, caption_channels=6)
    mean, condition, residual = torch.randn(1, 4, 4, 4), torch.randn(1, 3, 6), torch.randn(1, 4, 4, 4)
    logvar = torch.zeros(1, 4, 4, 4, requires_grad=True)
    timesteps = torch.tensor([999])
    x0 = one_step(transformer, mean, logvar, residual, condition, timesteps)
    velocity = transformer(mean, condition, transformer.pseudo_timestep(logvar))
    assert torch.equal(x0, mean - velocity + residual)
    x0.square().sum().backward()
    assert logvar.grad is not None and logvar.grad.abs().sum() > 0
    assert transformer.pseudo_timestep.weight.grad.abs().sum() > 0
    # Blocks computed anew on the way back give the same.
    first = transformer.patch_embed.proj
    expected = first.weight.grad.clone()
    transformer.zero_grad()
    transformer.enable_gradient_checkpointing()
    one_step(transformer, mean, logvar, residual, condition, timesteps).square().sum().backward()
    assert torch.allclose(first.weight.grad, expected, rtol=1e-4, atol=1e-6)


def test_it_is_a_choice_of_the_configuration_and_off() -> None:
    tiny = DiTICConfig.tiny()
    assert not any("pseudo" in name for name, _ in DiTIC(tiny).named_parameters())
    paced = replace(tiny, transformer=replace(tiny.transformer, pseudo_timestep=True))
    assert DiTICConfig.from_dict(paced.to_dict()) == paced
    before = tiny.to_dict()
    del before["transformer"]["pseudo_timestep"]
    assert DiTICConfig.from_dict(before) == tiny
    output = DiTIC(paced)(torch.rand(1, 3, 128, 128) * 2 - 1, torch.zeros(1, dtype=torch.int64))
    assert output.x_hat.shape == (1, 3, 128, 128)
