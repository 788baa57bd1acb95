"""Integer layers against integer arithmetic without floats, and against the float layers they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.codecs.ditic.blocks import DCB
from pipeline.codecs.ditic.exact import ACTIVATIONS, KINDS, NARROW
from pipeline.entropy.fixed_point import Fixed, FixedConv2d, restore
from pipeline.entropy.quantise import convert, observe
from pipeline.errors import CheckpointError


def convolve(x: np.ndarray, weight: np.ndarray, padding: int) -> np.ndarray:
    """Plain Python integers: C x H x W by O x C x K x K."""
    size = weight.shape[-1]
    padded = np.pad(x.astype(object), ((0, 0), (padding, padding), (padding, padding)))
    out = np.zeros((weight.shape[0], *x.shape[1:]), dtype=object)
    for o, i, j in np.ndindex(*out.shape):
        out[o, i, j] = int((padded[:, i : i + size, j : j + size] * weight[o].astype(object)).sum())
    return out


def test_convolution_equals_integer_arithmetic_at_the_largest_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-32767, 32767, 12345], size=(40, 4, 4))
    weight = rng.choice([-32767, 32767, 1], size=(3, 40, 3, 3))
    bias = np.array([2**40, -(2**40), 0])
    bits = np.array([20, 18, 15])
    spec = {"kind": "conv", "in_bits": 8, "in_limit": 32767, "out_bits": 4, "stride": 1, "padding": 1, "groups": 1}
    layer = FixedConv2d(spec, torch.from_numpy(weight), torch.from_numpy(bits), torch.from_numpy(bias))
    got = layer(Fixed(torch.from_numpy(x)[None].float(), 8)).values[0]
    for o, channel in enumerate(convolve(x, weight, 1)):
        shift = 8 + int(bits[o]) - 4
        expected = [(int(v) + int(bias[o]) + (1 << (shift - 1))) >> shift for v in channel.flatten()]
        assert got[o].flatten().tolist() == np.clip(expected, -32767, 32767).tolist()


def test_converted_block_follows_the_float_block() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(DCB(8, 16, outer_shortcut=True))
    x = torch.randn(2, 8, 6, 6)
    with torch.inference_mode():
        with observe(module, ["0"]) as ranges:
            expected = module(x)
        specs, tensors = convert(module, ["0"], ranges, kinds=KINDS, activations=ACTIVATIONS, narrow=NARROW, out_bits={})
        restore(module, ["0"], specs, tensors)
        got = module(Fixed(torch.round(x * 4096), 12)).to_float()
    assert (got - expected).abs().max() < 2e-2
    assert (got - expected).abs().max() > 0


def test_values_out_of_range_saturate() -> None:
    wide = Fixed.from_integers(torch.tensor([[1000.0, -1000.0]]), 10)
    assert wide.values.tolist() == [[32767.0, -32767.0]]


def test_sums_of_unlike_scales_are_a_programming_error() -> None:
    with pytest.raises(ValueError, match="one scale"):
        Fixed(torch.zeros(1), 3) + Fixed(torch.zeros(1), 4)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    module = nn.Sequential(DCB(8, 8))
    with pytest.raises(CheckpointError, match="does not fit"):
        restore(module, ["0"], {"0.dc.9": {"kind": "add", "out_bits": 3}}, {})


def test_a_layer_too_wide_for_exact_sums_is_refused() -> None:
    spec = {"kind": "conv", "in_bits": 8, "in_limit": 32767, "out_bits": 8, "stride": 1, "padding": 0, "groups": 1}
    weight = torch.full((1, 5_000_000, 1, 1), 32767, dtype=torch.int16)
    with pytest.raises(CheckpointError, match="too wide"):
        FixedConv2d(spec, weight, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
