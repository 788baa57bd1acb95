"""8-bit weights: the same layer, a quarter of the bytes, a small error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.codecs.neural.int8 import to_int8


@pytest.mark.parametrize(
    "layer", [nn.Linear(256, 512), nn.Conv2d(64, 128, 3, padding=1, stride=2), nn.Conv2d(128, 128, 3, groups=2)], ids=str
)
def test_a_layer_keeps_its_function_within_the_rounding_of_its_weights(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, layer.in_channels, 16, 16) if isinstance(layer, nn.Conv2d) else torch.randn(5, 256)
    with torch.inference_mode():
        expected = layer(x)
        num_weights = layer.weight.numel()  # type: ignore[operator]
        assert to_int8(nn.Sequential(layer)) == 1
        error = (layer(x) - expected).std() / expected.std()
    assert 0 < error < 0.02
    stored = sum(b.numel() * b.element_size() for b in layer.buffers())
    assert stored < 1.1 * num_weights


def test_small_layers_and_depthwise_convolutions_stay_exact() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Conv2d(32, 32, 3, groups=32))
    before = [p.clone() for p in module.parameters()]
    assert to_int8(module) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
