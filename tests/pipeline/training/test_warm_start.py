"""A model started as a transform codec renders what went in, and rounds it as finely as was asked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC
from pipeline.training.warm_start import suits, warm_start

RATE_WEIGHTS = (0.2, 0.09, 0.042, 0.02)


@pytest.fixture(scope="module")
def model() -> DiTIC:
    torch.manual_seed(0)
    return DiTIC(DiTICConfig.small()).eval()


def test_a_started_model_is_a_transform_codec(model: DiTIC) -> None:
    # Smooth pictures, which few components hold.
    generator = torch.Generator().manual_seed(0)
    photos = [
        torch.nn.functional.interpolate(torch.rand(8, 3, 16, 16, generator=generator) * 2 - 1, scale_factor=8, mode="bicubic")
        for _ in range(3)
    ]
    step = warm_start(model, photos[:2], RATE_WEIGHTS)
    assert step == pytest.approx(math.sqrt(18 / math.log(2) * 0.02))
    x = photos[2]
    with torch.no_grad():
        lat, aux = model.analyse(x)
        exact = model.render(lat)
        assert float((exact - x).square().mean()) < 1e-3
        gain = model.codec.gain(torch.full((8,), 3))
        y, _ = model.codec.analyse(lat, aux, gain)

        def through(y_hat: torch.Tensor) -> torch.Tensor:
            return model.denoise(*model.steer(y_hat, torch.ones_like(y_hat), gain))

        assert torch.allclose(through(y), lat, atol=1e-3 * float(lat.abs().max()))
        # An orthonormal transform: rounding y costs at most what rounding to multiples of the step costs.
        error = float((through(torch.round(y)) - lat).square().mean())
        assert 0 < error < 1.1 * step**2 / 12
        # The lower qualities round more coarsely, as their rate weights say.
        gains = model.codec.gain(torch.arange(4))[:, 0, 0, 0]
        assert torch.allclose(gains, (0.02 / torch.tensor(RATE_WEIGHTS)).sqrt())
        # Directions of y are in the order of their variance.
        variances = y.var(dim=(0, 2, 3))
        assert variances[:8].mean() > 2 * variances[-8:].mean()


def test_what_does_not_fit_through_is_not_started() -> None:
    assert suits(DiTICConfig.small())
    assert not suits(DiTICConfig.tiny())
    assert not suits(replace(DiTICConfig.small(), latent=replace(DiTICConfig.small().latent, y_channels=80)))
