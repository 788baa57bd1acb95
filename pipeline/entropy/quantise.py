"""Float layers -> their integer twins, once, when a checkpoint is frozen: scales from calibration photos, then integers.

    observe(module) while the float network runs over photos, then convert(module) -> specs and integer tensors, to be stored

`fixed_point.restore` makes layers of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.entropy.fixed_point import LIMIT, NARROW_LIMIT, Spec, leaves

MIN_WEIGHT = 32
"""Least magnitude that the largest weight of each output channel must have for a convolution in float32."""
MAX_FRACTION_BITS = 14
MAX_WEIGHT_FRACTION_BITS = 24
HEADROOM = 1.5
"""How far beyond the largest value seen on calibration photos the 16 bits reach."""

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
    """Fraction bits of the output; None: from the values seen, and in 11 bits, for nothing but convolutions to read."""


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
    narrow: Mapping[str, str],
    out_bits: Mapping[str, int],
) -> tuple[dict[str, Spec], dict[str, Tensor]]:
    """Specs and integer tensors of every leaf, ready to be stored and given to `restore`.

    Args:
        ranges: from `observe`.
        kinds: leaf class -> "conv", "add", "concat", "identity", "shuffle", or a key of `activations` or `narrow`.
        narrow: kind -> "add" or "concat", of leaves that nothing but convolutions read: their results take 11 bits.
        out_bits: leaf path -> fraction bits of its output, where leaves must share a scale; others follow `ranges`.

    Raises:
        KeyError: a leaf of a class that `kinds` lacks, or one that never ran while `ranges` was recorded.
    """
    specs: dict[str, Spec] = {}
    tensors: dict[str, Tensor] = {}
    for path, leaf in leaves(module, parts):
        kind = kinds[type(leaf)]
        largest_in, largest_out = ranges[path]
        bits = out_bits.get(path, fraction_bits(largest_out))
        if isinstance(leaf, nn.Conv2d):
            specs[path], integers = _quantise_conv(leaf, largest_in, bits)
            tensors.update({f"{path}.{name}": value for name, value in integers.items()})
        elif isinstance(leaf, nn.PixelShuffle):
            specs[path] = {"kind": kind, "factor": leaf.upscale_factor}
        elif kind in activations:
            activation = activations[kind]
            # Multiples of four only: fewer tables to store, each 128 KiB, for at most three bits of precision.
            in_bits = fraction_bits(largest_in) // 4 * 4 if activation.in_bits is None else activation.in_bits
            limit = NARROW_LIMIT if activation.out_bits is None else LIMIT
            bits = fraction_bits(largest_out, limit) if activation.out_bits is None else activation.out_bits
            name = f"table.{kind}.{in_bits}.{bits}"
            specs[path] = {"kind": "table", "in_bits": in_bits, "out_bits": bits, "limit": limit, "table": name}
            tensors[name] = _tabulate(activation.function, in_bits, bits, limit)
        elif kind in narrow:
            specs[path] = {"kind": narrow[kind], "out_bits": fraction_bits(largest_out, NARROW_LIMIT), "limit": NARROW_LIMIT}
        else:
            specs[path] = {"kind": kind, "out_bits": bits, "limit": LIMIT}
    return specs, tensors


def fraction_bits(largest: float, limit: int = LIMIT) -> int:
    """Fraction bits with which `HEADROOM` times the value `largest` still stays within `limit`."""
    return min(MAX_FRACTION_BITS, math.floor(math.log2(limit / max(HEADROOM * largest, 1e-9))))


def _quantise_conv(conv: nn.Conv2d, largest_in: float, out_bits: int) -> tuple[Spec, dict[str, Tensor]]:
    pointwise = conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
    spec = {
        "kind": "conv", "out_bits": out_bits,
        "stride": conv.stride[0], "padding": int(conv.padding[0]), "groups": conv.groups,
    }  # fmt: skip
    if pointwise or conv.groups > 1:
        in_bits = fraction_bits(largest_in, NARROW_LIMIT)
        integers = _integers(conv, in_bits, out_bits, NARROW_LIMIT, 2.0**24)
        if (integers["weight"].abs().flatten(1).amax(1) >= MIN_WEIGHT).all():
            return spec | {"in_bits": in_bits, "in_limit": NARROW_LIMIT}, integers
    in_bits = fraction_bits(largest_in)
    return spec | {"in_bits": in_bits, "in_limit": LIMIT}, _integers(conv, in_bits, out_bits, LIMIT, 2.0**52)


def _integers(conv: nn.Conv2d, in_bits: int, out_bits: int, in_limit: int, bound: float) -> dict[str, Tensor]:
    """Weights with as many bits in each output channel as keep the sums of products under `bound`."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(weight.shape[0]) if conv.bias is None else conv.bias.detach()
    largest = weight.abs().flatten(1).amax(1).clamp(min=1e-9)
    # Weights are rounded, which adds at most a half each; the bias, and half of what the output's shift drops, come on top.
    extra = bias.abs().double() * 2.0**in_bits + 2.0 ** (in_bits - out_bits - 1)
    sums = in_limit * weight.abs().flatten(1).sum(1) + extra
    room = bound - in_limit * weight[0].numel() / 2 - 2.0
    bits = torch.minimum(torch.log2(LIMIT / largest), torch.log2(room / sums)).floor().clamp(max=MAX_WEIGHT_FRACTION_BITS)
    scale = torch.exp2(bits)
    return {
        "weight": torch.round(weight * scale.view(-1, 1, 1, 1)).to(torch.int16),
        "weight_bits": bits.to(torch.int16),
        "bias": torch.round(bias.double() * scale * 2.0**in_bits).to(torch.int64),
    }


def _tabulate(function: Callable[[Tensor], Tensor], in_bits: int, out_bits: int, limit: int) -> Tensor:
    x = torch.arange(-LIMIT - 1, LIMIT + 1, dtype=torch.float64) * 2.0**-in_bits
    return torch.floor(function(x) * 2.0**out_bits + 0.5).clamp(-limit, limit).to(torch.int16)
