"""Weights as 8-bit integers: storage alone, arithmetic stays in the network's own format.

weight ~ int8 * scale, one scale an output channel (round to nearest, symmetric)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_WEIGHTS = 1 << 16
"""Smaller layers stay as they are: they weigh little, and it is them that colours hang on."""


class Int8Linear(nn.Linear):
    """`nn.Linear` whose weight is spread out when it is used."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, spread(self), self.bias)


class Int8Conv2d(nn.Conv2d):
    """`nn.Conv2d` whose weight is spread out when it is used."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, spread(self), self.bias)


def to_int8(module: nn.Module) -> int:
    """Turn the linear layers and convolutions below `module` into their 8-bit form, in place; returns how many."""
    count = 0
    for child in module.modules():
        layer: Any = child
        kind = {nn.Linear: Int8Linear, nn.Conv2d: Int8Conv2d}.get(type(layer))
        if kind is None or layer.weight.numel() < _LEAST_WEIGHTS:
            continue
        weight = layer.weight.detach()
        largest = weight.float().abs().flatten(1).amax(1).clamp(min=1e-12)
        scale = (largest / 127).view(-1, *[1] * (weight.ndim - 1))
        integers = torch.round(weight.float() / scale).to(torch.int8)
        del layer.weight
        layer.register_buffer("weight", integers.contiguous(), persistent=False)
        layer.register_buffer("weight_scale", scale.to(weight.dtype), persistent=False)
        # The class and not a new module: references to the layer, aliases among them, stay good.
        layer.__class__ = kind
        count += 1
    return count


def spread(layer: Any) -> Tensor:
    """The weight of an 8-bit layer in the format that it computes in."""
    return layer.weight.to(layer.weight_scale.dtype) * layer.weight_scale
