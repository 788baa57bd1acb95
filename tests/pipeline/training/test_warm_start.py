"""A started codec hands the autoencoder's latent through, and rounds it as finely as was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.training.warm_start import suits, warm_start


@pytest.fixture(scope="module")
def model() -> DiTIC:
    torch.manual_seed(0)
    tiny = DiTICConfig.tiny()
    config = replace(tiny, latent=replace(tiny.latent, y_channels=64, lat_channels=16, context_channels=64))
    return DiTIC(config).eval()


def test_the_latent_comes_through_a_started_codec(model: DiTIC) -> None:
    photos = [torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(3)]
    step = warm_start(model, photos[:2])
    with torch.no_grad():
        lat, aux = model.analyse(photos[2])
        y = model.codec.g_a(lat, aux)
        through = model.denoise(model.codec.heads(y, torch.ones_like(y)))
        assert torch.allclose(through, lat, atol=1e-4 * float(lat.abs().max()))
        # An orthonormal transform: rounding y costs what rounding to multiples of the step costs.
        rounded = model.denoise(model.codec.heads(torch.round(y), torch.ones_like(y)))
        assert float((rounded - lat).square().mean()) < 1.1 * step**2 / 12
        # Directions of y are in the order of their variance, and hardly correlated.
        variances = y.var(dim=(0, 2, 3))
        assert variances[:8].mean() > 2 * variances[-8:].mean()


def test_what_does_not_fit_through_is_not_started() -> None:
    assert suits(DiTICConfig.small())
    assert not suits(DiTICConfig.tiny())
