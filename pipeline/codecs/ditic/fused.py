"""The same float networks in fewer passes over memory, for inference: on a CPU those cost as much as the convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.codecs.ditic.blocks import DCB
from pipeline.codecs.ditic.sana_blocks import RMSNorm


class FusedRMSNorm(nn.Module):
    """x / rms(x) * weight + bias over the last axis; the mean of squares in float32."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = norm.eps, norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        x = x * torch.rsqrt(squares.div_(x.shape[-1]).add_(self.eps)).to(x.dtype)
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)


def fuse(part: nn.Module) -> None:
    """Rewrite the layers of `part` in place, weights included: only for what is never trained or stored again."""
    for module in list(part.modules()):
        if isinstance(module, DCB):
            _fold(module.dc, 0, 2)
            _fold(module.ffn, 0, 2)
        for name, child in module.named_children():
            if isinstance(child, RMSNorm):
                setattr(module, name, FusedRMSNorm(child))


def _fold(layers: nn.Sequential, before: int, after: int) -> None:
    """x sigmoid(4x) = silu(4x) / 4: the factors, powers of two, go into the convolutions around it."""
    first, last = layers[before], layers[after]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    for parameter in (first.weight, first.bias):
        if parameter is not None:
            parameter.data = parameter.data * 4
    last.weight.data = last.weight.data / 4
    layers[before + 1] = nn.SiLU(inplace=True)
