"""Integer twins of network layers: the same result on every machine, in every batch and order of summation.

A `Fixed` is integers in a float32 tensor with a power-of-two scale: 16 bits each, 11 where they enter a narrow convolution.
The weights of such a convolution take as many bits as keep every sum of its products under 2^24, so that float32 arithmetic on
them is exact whatever the order. A layer that is too wide for that, or whose kernel could be computed in a transform domain,
takes 16-bit operands and float64: sums stay under 2^52, and rounding each absorbs the error of such a kernel. Activations are
tables of 65,536 int16 entries. No exp, erf or tanh runs here.

    freeze:  `quantise.observe` and `convert` make specs and integer tensors of a float network, to be stored
    load:    restore(module, specs, tensors) puts the integer twin in the place of each leaf

Values outside their range saturate, identically everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.entropy import kernels
from pipeline.errors import CheckpointError, SettingError

LIMIT = 32767
"""Largest magnitude of a value or a weight."""
NARROW_LIMIT = 1023
"""Largest magnitude of what enters a convolution in float32."""
MAX_EXTRA_BITS = 7
"""By how many fraction bits the terms of a sum may be finer than the sum."""

Spec = dict[str, Any]
"""How one leaf computes: kind, scales, stride, ...; plain JSON values."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Integers `values` that stand for values * 2^-fraction_bits."""

    values: Tensor  # B x C x h x w, float32 holding integers
    fraction_bits: int
    limit: int = LIMIT
    """Largest magnitude that `values` can have."""

    @classmethod
    def from_integers(cls, integers: Tensor, fraction_bits: int) -> Fixed:
        """Whole numbers (any dtype) at the given scale, saturated."""
        return cls.saturated(integers.float() * 2.0**fraction_bits, fraction_bits)

    @classmethod
    def saturated(cls, values: Tensor, fraction_bits: int) -> Fixed:
        """`values` (whole) as they are, cut to 16 bits."""
        return cls(values.float().clamp(-LIMIT, LIMIT), fraction_bits)

    def to_float(self) -> Tensor:
        """Real values, float32."""
        return self.values * 2.0**-self.fraction_bits

    def rescale(self, fraction_bits: int, limit: int = LIMIT) -> Fixed:
        """The same real values at another scale, rounded half up and saturated."""
        if fraction_bits == self.fraction_bits and self.limit <= limit:
            return self
        values = (self.values * 2.0 ** (fraction_bits - self.fraction_bits)).add_(0.5).floor_()
        return Fixed(values.clamp_(-limit, limit), fraction_bits, limit)

    def map(self, function: Callable[[Tensor], Tensor]) -> Fixed:
        """`function` of the integers, which must only move them about."""
        return Fixed(function(self.values), self.fraction_bits, self.limit)

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def chunk(self, chunks: int, dim: int) -> list[Fixed]:
        return [Fixed(part, self.fraction_bits, self.limit) for part in self.values.chunk(chunks, dim)]

    def split(self, size: int, dim: int) -> list[Fixed]:
        return [Fixed(part, self.fraction_bits, self.limit) for part in self.values.split(size, dim)]

    def __add__(self, other: Fixed) -> Fixed:
        """Sum at one scale, which both must have."""
        if self.fraction_bits != other.fraction_bits:
            raise ValueError("terms of a sum must share one scale; use a FixedAdd leaf")
        return Fixed((self.values + other.values).clamp_(-LIMIT, LIMIT), self.fraction_bits)


class FixedConv2d(nn.Module):
    """Convolution: integer weights with a scale per output channel, an exact accumulator, one requantisation."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, weight: Tensor, weight_bits: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.in_bits, self.out_bits, self.in_limit = int(spec["in_bits"]), int(spec["out_bits"]), int(spec["in_limit"])
        self.stride, self.padding, self.groups = spec["stride"], spec["padding"], spec["groups"]
        shift = self.in_bits + weight_bits.double() - self.out_bits
        # Half of what the shift drops: the floor then rounds half up.
        bias = bias.double() + torch.where(shift > 0, torch.exp2(shift - 1), 0.0)
        bound = float((self.in_limit * weight.double().abs().flatten(1).sum(1) + bias.abs()).max())
        self.pointwise = weight.shape[2:] == (1, 1) and self.groups == 1 and self.stride == 1
        self.dtype = torch.float32 if bound < 2.0**24 and (self.pointwise or self.groups > 1) else torch.float64
        if bound >= 2.0**52:
            raise CheckpointError("a fixed-point layer is too wide for an exact float64 accumulator")
        shape = (-1,) if self.pointwise else (-1, 1, 1)
        weight = weight.flatten(1) if self.pointwise else weight
        self.register_buffer("weight", weight.to(self.dtype), persistent=False)
        self.register_buffer("bias", bias.to(self.dtype).view(shape), persistent=False)
        self.register_buffer("scale", torch.exp2(-shift).to(self.dtype).view(shape), persistent=False)
        self.kernels = False

    def forward(self, x: Fixed) -> Fixed:
        values = x.rescale(self.in_bits, self.in_limit).values.to(self.dtype)
        if self.kernels and self.dtype == torch.float32 and values.device.type == "cpu":
            return self._in_one_pass(values.permute(0, 2, 3, 1).contiguous()).map(_channels_first)
        if self.pointwise:
            # As products of matrices, channels last: a convolution would copy its input first.
            return self._requantised(F.linear(values.permute(0, 2, 3, 1), self.weight, self.bias)).map(_channels_first)
        if self.groups == 1:
            return self._requantised(
                F.conv2d(values, self.weight, stride=self.stride, padding=self.padding).round_().add_(self.bias)
            )
        return self._requantised(_depthwise(values, self.weight, self.padding).add_(self.bias))

    def of_channels(self, x: Fixed, channels: slice) -> Fixed:
        """These channels of the result of a pointwise convolution."""
        part = copy(self)
        part._buffers = {name: value[channels] for name, value in self.named_buffers()}
        return part(x)

    def _in_one_pass(self, x: Tensor) -> Fixed:
        if self.pointwise:
            acc = F.linear(x, self.weight)
            flat = acc.view(-1, acc.shape[-1]).numpy()
            kernels.requantise(flat, self.bias.numpy(), self.scale.numpy(), LIMIT)
        else:
            acc = torch.empty_like(x)
            taps = self.weight.flatten(1).T.contiguous().numpy()
            bias, scale = self.bias.flatten().numpy(), self.scale.flatten().numpy()
            kernels.depthwise3x3(x.numpy(), taps, bias, scale, LIMIT, acc.numpy())
        return Fixed(acc, self.out_bits)

    def _requantised(self, acc: Tensor) -> Fixed:
        # In place: the accumulator is nobody else's.
        return Fixed(acc.mul_(self.scale).floor_().clamp_(-LIMIT, LIMIT).float(), self.out_bits)


class FixedTable(nn.Module):
    """A pointwise activation, looked up."""

    table: Tensor

    def __init__(self, spec: Spec, table: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.in_bits, self.out_bits, self.limit = int(spec["in_bits"]), int(spec["out_bits"]), int(spec["limit"])
        self.register_buffer("table", table.float(), persistent=False)
        self.kernels = False

    def forward(self, x: Fixed) -> Fixed:
        # Channels last, as convolutions leave them: nothing is copied to look up a row of indices.
        if self.kernels and x.values.device.type == "cpu":
            source = x.values.permute(0, 2, 3, 1).contiguous()
            found = torch.empty_like(source)
            scale = 2.0 ** (self.in_bits - x.fraction_bits)
            kernels.look_up(source.view(-1).numpy(), scale, self.table.numpy(), found.view(-1).numpy())
            return Fixed(_channels_first(found), self.out_bits, self.limit)
        index = x.rescale(self.in_bits).values.permute(0, 2, 3, 1).to(torch.int32).add_(LIMIT + 1)
        values = self.table.index_select(0, index.flatten()).view_as(index)
        return Fixed(_channels_first(values), self.out_bits, self.limit)


class FixedAdd(nn.Module):
    """Sum of two tensors of any scales."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.out_bits, self.limit = int(spec["out_bits"]), int(spec["limit"])

    def forward(self, a: Fixed, b: Fixed) -> Fixed:
        # Finer operands would make sums of more than the 24 bits that float32 has.
        a, b = (x.rescale(min(x.fraction_bits, self.out_bits + MAX_EXTRA_BITS)) for x in (a, b))
        if a.fraction_bits < b.fraction_bits:
            a, b = b, a
        total = torch.add(a.values, b.values, alpha=2.0 ** (a.fraction_bits - b.fraction_bits))
        if a.fraction_bits != self.out_bits:
            total.mul_(2.0 ** (self.out_bits - a.fraction_bits)).add_(0.5).floor_()
        return Fixed(total.clamp_(-self.limit, self.limit), self.out_bits, self.limit)


class FixedConcat(FixedAdd):
    """Concatenation along channels, at one scale."""

    def forward(self, a: Fixed, b: Fixed) -> Fixed:
        parts = [x.rescale(self.out_bits, self.limit).values for x in (a, b)]
        return Fixed(torch.cat(parts, dim=1), self.out_bits, self.limit)


class FixedIdentity(nn.Module):
    """Brings its input to a given scale."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.out_bits = int(spec["out_bits"])

    def forward(self, x: Fixed) -> Fixed:
        return x.rescale(self.out_bits)


class FixedShuffle(nn.PixelShuffle):
    """PixelShuffle; no arithmetic."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(int(spec["factor"]))
        self.spec = spec

    def forward(self, x: Fixed) -> Fixed:  # type: ignore[override]
        return x.map(super().forward)


def require_exact_float32(device: torch.device) -> None:
    """Check that this process lets products of float32 matrices on `device` be what they are.

    Convolutions have settings of their own, which do not count: the layers here compute them in float64.

    Raises:
        SettingError: they are set to run in fewer bits, which would write streams that nobody can read.
    """
    # Of the two ways to set it, either shows here; torch.get_float32_matmul_precision stops where both were used.
    backends: Any = torch.backends  # whose types lack what torch adds at run time
    name = "cuda" if device.type == "cuda" else "mkldnn"
    precision = getattr(backends, name).matmul.fp32_precision
    if precision not in ("none", "ieee"):
        raise SettingError(
            f"exact streams need float32 products in full, and this process has them in {precision}: "
            f'set torch.backends.{name}.matmul.fp32_precision = "ieee"'
        )


def use_kernels(module: nn.Module) -> None:
    """Let the layers in `module` run in compiled loops where they are on a CPU."""
    for layer in module.modules():
        if isinstance(layer, FixedTable):
            layer.kernels = True
        elif isinstance(layer, FixedConv2d):
            layer.kernels = layer.pointwise or layer.weight.shape[2:] == (3, 3)


def use_float64(module: nn.Module) -> None:
    """Let the layers in `module` run in float64, one operation after the other: the reference for everything faster."""
    for layer in module.modules():
        if isinstance(layer, FixedConv2d):
            layer.dtype = torch.float64
            layer.double()


def leaves(module: nn.Module, parts: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """(path, submodule) of every module without children under the submodules `parts` of `module`, each once."""
    for path, child in module.named_modules():
        if path.partition(".")[0] in parts and not any(True for _ in child.children()):
            yield path, child


def restore(module: nn.Module, parts: Sequence[str], specs: Mapping[str, Spec], tensors: Mapping[str, Tensor]) -> None:
    """Put the integer twin in the place of every leaf.

    Raises:
        CheckpointError: a leaf has no spec, or a spec no leaf or no tensor.
    """
    different = sorted({path for path, _ in leaves(module, parts)} ^ specs.keys())
    if different:
        raise CheckpointError(f"the exact entropy path does not fit this model: {', '.join(different[:5])}")
    try:
        twins = {path: _twin(path, spec, tensors) for path, spec in specs.items()}
    except KeyError as error:
        raise CheckpointError(f"the exact entropy path lacks {error}") from error
    for path, twin in twins.items():
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, twin)


def _twin(path: str, spec: Spec, tensors: Mapping[str, Tensor]) -> nn.Module:
    match spec["kind"]:
        case "conv":
            return FixedConv2d(spec, tensors[f"{path}.weight"], tensors[f"{path}.weight_bits"], tensors[f"{path}.bias"])
        case "table":
            return FixedTable(spec, tensors[spec["table"]])
        case "add":
            return FixedAdd(spec)
        case "concat":
            return FixedConcat(spec)
        case "identity":
            return FixedIdentity(spec)
        case "shuffle":
            return FixedShuffle(spec)
    raise CheckpointError(f"{path}: unknown kind of fixed-point layer {spec['kind']!r}")


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _depthwise(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    # Shifted products: PyTorch's float64 grouped convolution on a CPU runs group by group.
    size = weight.shape[-1]
    padded = F.pad(x, (padding,) * 4)
    height, width = padded.shape[2] - size + 1, padded.shape[3] - size + 1
    acc = torch.zeros_like(x)
    for i, j in np.ndindex(size, size):
        acc.addcmul_(padded[:, :, i : i + height, j : j + width], weight[:, 0, i, j].view(1, -1, 1, 1))
    return acc
