"""Integer twins of network layers: the same result on every machine, in every batch and order of summation.

A `Fixed` is integers in a float64 tensor with a power-of-two scale. Sums of products of 16-bit integers stay under 2^53,
so float64 arithmetic on them is exact whatever the order; each convolution is rounded, which absorbs a kernel that works
in a transform domain. Activations are tables of 65,536 int16 entries. No exp, erf or tanh runs here.

    freeze:  observe(module) over calibration photos, then convert(module) -> specs and integer tensors, to be stored
    load:    restore(module, specs, tensors) puts the integer twin in the place of each leaf

Values outside the 16-bit range saturate, identically everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import CheckpointError

LIMIT = 32767
"""Largest magnitude of an activation or a weight."""
MAX_FRACTION_BITS = 14
MAX_WEIGHT_FRACTION_BITS = 24
HEADROOM = 1.5
"""How far beyond the largest value seen on calibration photos the 16 bits reach."""

Spec = dict[str, Any]
"""How one leaf computes: kind, scales, stride, ...; plain JSON values."""
Ranges = dict[str, tuple[float, float]]
"""Leaf path -> largest magnitude that entered and left it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """A pointwise function to tabulate."""

    function: Callable[[Tensor], Tensor]
    """In float64; runs only when a checkpoint is frozen."""
    in_bits: int | None = None
    """Fraction bits of the input; None: from the values seen."""
    out_bits: int | None = None
    """Fraction bits of the output; None: those of the input, which suffice where |f(x)| <= |x|."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Integers `values` (float64, |value| <= 32767) that stand for values * 2^-fraction_bits."""

    values: Tensor  # B x C x h x w, float64 holding integers
    fraction_bits: int

    @classmethod
    def from_integers(cls, integers: Tensor, fraction_bits: int) -> Fixed:
        """Whole numbers (any dtype) at the given scale, saturated."""
        return cls.saturated(integers.double() * 2.0**fraction_bits, fraction_bits)

    @classmethod
    def saturated(cls, values: Tensor, fraction_bits: int) -> Fixed:
        """`values` (float64, whole) as they are, cut to 16 bits."""
        return cls(_saturate(values), fraction_bits)

    def to_float(self) -> Tensor:
        """Real values, float32."""
        return (self.values * 2.0**-self.fraction_bits).float()

    def rescale(self, fraction_bits: int) -> Fixed:
        """The same real values at another scale, rounded half up and saturated."""
        if fraction_bits == self.fraction_bits:
            return self
        return Fixed(_round_shift(self.values, self.fraction_bits - fraction_bits), fraction_bits)

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    def chunk(self, chunks: int, dim: int) -> list[Fixed]:
        return [Fixed(part, self.fraction_bits) for part in self.values.chunk(chunks, dim)]

    def split(self, size: int, dim: int) -> list[Fixed]:
        return [Fixed(part, self.fraction_bits) for part in self.values.split(size, dim)]

    @classmethod
    def concat(cls, parts: Sequence[Fixed], dim: int) -> Fixed:
        """Inverse of `split`."""
        return cls(torch.cat([part.values for part in parts], dim), parts[0].fraction_bits)

    def repeat(self, *sizes: int) -> Fixed:
        return Fixed(self.values.repeat(*sizes), self.fraction_bits)

    def __mul__(self, mask: Tensor) -> Fixed:
        """By a mask of zeros and ones."""
        return Fixed(self.values * mask, self.fraction_bits)

    def __add__(self, other: Fixed) -> Fixed:
        """Sum at one scale, which both must have."""
        if self.fraction_bits != other.fraction_bits:
            raise ValueError("terms of a sum must share one scale; use a FixedAdd leaf")
        return Fixed(_saturate(self.values + other.values), self.fraction_bits)


class FixedConv2d(nn.Module):
    """Convolution: int16 weights with a scale per output channel, an exact accumulator, one requantisation."""

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, spec: Spec, weight: Tensor, weight_bits: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.in_bits, self.out_bits = int(spec["in_bits"]), int(spec["out_bits"])
        self.stride, self.padding, self.groups = spec["stride"], spec["padding"], spec["groups"]
        fan_in = weight[0].numel()
        if fan_in * LIMIT * LIMIT + float(bias.abs().max()) >= 2.0**52:
            raise CheckpointError("a fixed-point layer is too wide for an exact float64 accumulator")
        shift = self.in_bits + weight_bits.double() - self.out_bits
        self.register_buffer("weight", weight.double(), persistent=False)
        self.register_buffer("bias", bias.double().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.exp2(-shift).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Fixed) -> Fixed:
        values = x.rescale(self.in_bits).values
        if self.groups == 1:
            acc = F.conv2d(values, self.weight, stride=self.stride, padding=self.padding)
        else:
            acc = _depthwise(values, self.weight, self.padding)
        # In place: the accumulator is nobody else's.
        return Fixed(_saturate_(acc.round_().add_(self.bias).mul_(self.scale).add_(0.5).floor_()), self.out_bits)


class FixedTable(nn.Module):
    """A pointwise activation, looked up."""

    table: Tensor

    def __init__(self, spec: Spec, table: Tensor) -> None:
        super().__init__()
        self.spec = spec
        self.in_bits, self.out_bits = int(spec["in_bits"]), int(spec["out_bits"])
        self.register_buffer("table", table.double(), persistent=False)

    def forward(self, x: Fixed) -> Fixed:
        index = x.rescale(self.in_bits).values.to(torch.int32).add_(LIMIT + 1)
        return Fixed(self.table.index_select(0, index.flatten()).view_as(index), self.out_bits)


class FixedAdd(nn.Module):
    """Sum of two tensors of any scales."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.out_bits = int(spec["out_bits"])

    def forward(self, a: Fixed, b: Fixed) -> Fixed:
        total = a.values * 2.0 ** (self.out_bits - a.fraction_bits)
        total.add_(b.values, alpha=2.0 ** (self.out_bits - b.fraction_bits))
        return Fixed(_saturate_(total.add_(0.5).floor_()), self.out_bits)


class FixedConcat(FixedAdd):
    """Concatenation along channels, at one scale."""

    def forward(self, a: Fixed, b: Fixed) -> Fixed:
        bits = self.out_bits
        return Fixed(torch.cat((a.rescale(bits).values, b.rescale(bits).values), dim=1), bits)


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
        return Fixed(super().forward(x.values), x.fraction_bits)


def leaves(module: nn.Module, parts: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """(path, submodule) of every module without children under the submodules `parts` of `module`, each once."""
    for path, child in module.named_modules():
        if path.partition(".")[0] in parts and not any(True for _ in child.children()):
            yield path, child


@contextmanager
def observe(module: nn.Module, parts: Sequence[str]) -> Iterator[Ranges]:
    """Record the largest magnitude that enters and leaves each leaf while the float network runs.

    Yields:
        leaf path -> (largest input, largest output), filled as batches run.
    """
    ranges: Ranges = {}
    handles = []
    for path, leaf in leaves(module, parts):

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, path: str = path) -> None:
            largest_in, largest_out = ranges.get(path, (0.0, 0.0))
            inputs_now = max(float(x.detach().abs().max()) for x in inputs)
            ranges[path] = (max(largest_in, inputs_now), max(largest_out, float(output.detach().abs().max())))

        handles.append(leaf.register_forward_hook(hook))
    try:
        yield ranges
    finally:
        for handle in handles:
            handle.remove()


def convert(
    module: nn.Module,
    parts: Sequence[str],
    ranges: Ranges,
    *,
    kinds: Mapping[type[nn.Module], str],
    activations: Mapping[str, Activation],
    out_bits: Mapping[str, int],
) -> tuple[dict[str, Spec], dict[str, Tensor]]:
    """Specs and integer tensors of every leaf, ready to be stored and given to `restore`.

    Args:
        ranges: from `observe`.
        kinds: leaf class -> "conv", "add", "concat", "identity", "shuffle", or a key of `activations`.
        out_bits: leaf path -> fraction bits of its output, where leaves must share a scale; others follow `ranges`.
    """
    specs: dict[str, Spec] = {}
    tensors: dict[str, Tensor] = {}
    for path, leaf in leaves(module, parts):
        kind = kinds[type(leaf)]
        largest_in, largest_out = ranges[path]
        bits = out_bits.get(path, fraction_bits(largest_out))
        if isinstance(leaf, nn.Conv2d):
            specs[path] = {
                "kind": kind,
                "in_bits": fraction_bits(largest_in),
                "out_bits": bits,
                "stride": leaf.stride[0],
                "padding": int(leaf.padding[0]),
                "groups": leaf.groups,
            }
            tensors.update(_quantise_conv(path, leaf, fraction_bits(largest_in)))
        elif isinstance(leaf, nn.PixelShuffle):
            specs[path] = {"kind": kind, "factor": leaf.upscale_factor}
        elif kind in activations:
            activation = activations[kind]
            # Multiples of four only: fewer tables to store, each 128 KiB, for at most three bits of precision.
            in_bits = fraction_bits(largest_in) // 4 * 4 if activation.in_bits is None else activation.in_bits
            bits = in_bits if activation.out_bits is None else activation.out_bits
            name = f"table.{kind}.{in_bits}"
            specs[path] = {"kind": "table", "in_bits": in_bits, "out_bits": bits, "table": name}
            tensors[name] = _tabulate(activation.function, in_bits, bits)
        else:
            specs[path] = {"kind": kind, "out_bits": bits}
    return specs, tensors


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


def fraction_bits(largest: float) -> int:
    """Fraction bits with which `HEADROOM` times the value `largest` still fits 16 bits."""
    return min(MAX_FRACTION_BITS, math.floor(math.log2(LIMIT / max(HEADROOM * largest, 1e-9))))


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


def _quantise_conv(path: str, conv: nn.Conv2d, in_bits: int) -> dict[str, Tensor]:
    weight = conv.weight.detach().double()
    largest = weight.abs().flatten(1).amax(1).clamp(min=1e-9)
    bits = torch.floor(torch.log2(LIMIT / largest)).clamp(max=MAX_WEIGHT_FRACTION_BITS)
    integers = torch.round(weight * torch.exp2(bits).view(-1, 1, 1, 1))
    bias = torch.zeros(weight.shape[0]) if conv.bias is None else conv.bias.detach()
    return {
        f"{path}.weight": integers.to(torch.int16),
        f"{path}.weight_bits": bits.to(torch.int16),
        f"{path}.bias": torch.round(bias.double() * torch.exp2(bits + in_bits)).to(torch.int64),
    }


def _tabulate(function: Callable[[Tensor], Tensor], in_bits: int, out_bits: int) -> Tensor:
    x = torch.arange(-LIMIT - 1, LIMIT + 1, dtype=torch.float64) * 2.0**-in_bits
    return _saturate(torch.floor(function(x) * 2.0**out_bits + 0.5)).to(torch.int16)


def _depthwise(x: Tensor, weight: Tensor, padding: int) -> Tensor:
    # Shifted products: PyTorch's float64 grouped convolution on a CPU runs group by group.
    size = weight.shape[-1]
    padded = F.pad(x, (padding,) * 4)
    height, width = padded.shape[2] - size + 1, padded.shape[3] - size + 1
    acc = torch.zeros_like(x)
    for i, j in np.ndindex(size, size):
        acc.addcmul_(padded[:, :, i : i + height, j : j + width], weight[:, 0, i, j].view(1, -1, 1, 1))
    return acc


def _round_shift(values: Tensor, shift: int) -> Tensor:
    return _saturate_((values * 2.0**-shift).add_(0.5).floor_())


def _saturate(values: Tensor) -> Tensor:
    return values.clamp(-LIMIT, LIMIT)


def _saturate_(values: Tensor) -> Tensor:
    return values.clamp_(-LIMIT, LIMIT)
