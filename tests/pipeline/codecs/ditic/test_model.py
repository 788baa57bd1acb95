"""The published sizes, and the forward pass in its parts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.flow import SIGMA0, one_step
from pipeline.codecs.ditic.latent_codec import NUM_STEPS
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.packing import Packing
from pipeline.errors import CheckpointError

TENSORS = Path(__file__).parents[3] / "golden" / "ditic_full_tensors.tsv"


def test_full_size_has_exactly_the_published_tensors() -> None:
    with torch.device("meta"):
        model = DiTIC(DiTICConfig.full())
    with TENSORS.open() as handle:
        published = {row["tensor"]: (row["shape"], row["dtype"]) for row in csv.DictReader(handle, delimiter="\t")}
    ours = {name: (str(tuple(t.shape)), str(t.dtype)) for name, t in model.state_dict().items()}
    assert ours == published


def test_small_size_is_under_ten_million_parameters() -> None:
    with torch.device("meta"):
        model = DiTIC(DiTICConfig.small())
    assert sum(p.numel() for p in model.parameters()) <= 10_000_000


@pytest.mark.parametrize("config", [DiTICConfig.tiny(), DiTICConfig.small()], ids=lambda c: c.name)
def test_forward_keeps_the_photo_size_and_gives_a_finite_rate(config: DiTICConfig) -> None:
    torch.manual_seed(0)
    model = DiTIC(config)
    x = torch.rand(2, 3, config.multiple, 2 * config.multiple) * 2 - 1
    output = model(x, torch.tensor([0, config.latent.num_qualities - 1]))
    assert output.x_hat.shape == x.shape
    height, width = x.shape[2] // config.y_factor, x.shape[3] // config.y_factor
    assert output.coded.y_hat.shape == (2, config.latent.y_channels, height, width)
    assert output.coded.z_likelihoods.shape == (2, config.latent.z_channels, height // 4, width // 4)
    bits = -output.coded.y_likelihoods.log2().sum() - output.coded.z_likelihoods.log2().sum()
    assert torch.isfinite(bits)
    assert bits > 0


def test_the_four_steps_code_every_position_of_every_channel_once() -> None:
    y = torch.arange(1.0, 1 + 2 * 8 * 4 * 6).view(2, 8, 4, 6)
    packing = Packing(y)
    steps = [packing.pack(y, k) for k in range(NUM_STEPS)]
    assert all(step.shape == (2, 2, 4, 6) for step in steps)
    assert torch.equal(packing.unpack(steps), y)
    apart = [packing.unpack_one(step, k) for k, step in enumerate(steps)]
    assert torch.equal(torch.stack(apart).sum(0), y)
    # Each step codes one channel group at every position of the picture.
    assert all(torch.equal((part != 0)[0].view(4, 2, 4, 6).sum((0, 1)), torch.full((4, 6), 2)) for part in apart)
    replaced = packing.put(y, torch.zeros_like(steps[1]), 1)
    assert torch.equal(replaced, y - apart[1])
    assert torch.equal(packing.unpack(steps), y), "put must leave its input alone"


def test_the_first_step_codes_group_g_at_cell_position_g() -> None:
    y = torch.arange(1.0, 17.0).view(1, 4, 2, 2)
    packed = Packing(y).pack(y, 0)
    assert packed.flatten().tolist() == [y[0, 0, 0, 0], y[0, 1, 0, 1], y[0, 2, 1, 0], y[0, 3, 1, 1]]


def test_one_step_of_flow_follows_the_variance() -> None:
    class Velocity(torch.nn.Module):
        def forward(self, mean: torch.Tensor, *_: object) -> torch.Tensor:
            return torch.ones_like(mean)

    mean, residual = torch.zeros(1, 1, 1, 3), torch.full((1, 1, 1, 3), 0.5)
    logvar = torch.tensor([-100.0, 0.0, 100.0]).view(1, 1, 1, 3)
    x0 = one_step(Velocity(), mean, logvar, residual, torch.zeros(1, 2, 4), torch.tensor([999]))
    gains = torch.tensor([0.4 + 0.15 * torch.exp(torch.tensor(-15.0)), 0.55, 1.0])
    assert torch.allclose(x0.flatten(), 0.5 - SIGMA0 * gains, atol=1e-6)
    assert pytest.approx(0.99967, abs=1e-5) == SIGMA0


def test_configuration_survives_json_and_refuses_what_it_does_not_know() -> None:
    import json

    config = DiTICConfig.small()
    assert DiTICConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(CheckpointError, match="unexpected"):
        DiTICConfig.from_dict({**config.to_dict(), "latent": {"unexpected": 1}})
