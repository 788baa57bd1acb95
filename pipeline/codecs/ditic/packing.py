"""What each step of the context model codes of a map, and large maps in strips of rows.

Step k codes at every position one of the four groups of C/4 channels, so that after four steps each group is coded everywhere:

    the group coded in each      k = 0   0 1    k = 1   3 2    k = 2   2 3    k = 3   1 0
    2 x 2 cell of positions              2 3            1 0            0 1            3 2

    map     B x C x h x w, h and w even
    packed  B x C/4 x h x w, of each position what step k codes there

Both are tensors or `Fixed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.codecs.ditic.blocks import joined
from pipeline.entropy.fixed_point import FixedConv2d

STRIP_POSITIONS = 1 << 13
"""Larger maps pass a step of the context model in strips of about so many positions."""

# The positions of a cell are numbered 0..3, row by row; entry [k][g] is where step k codes group g.
_POSITIONS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))


class Packing:
    """Between maps and what step k codes of them."""

    def __init__(self, like: Any) -> None:
        """For maps of the channels, height and width of `like`."""
        _, self.channels, self.height, self.width = like.shape
        self.group = self.channels // 4

    def pack(self, x: Any, k: int) -> Any:
        """B x C x h x w -> B x C/4 x h x w; B, C and h x w may be 1, for the same everywhere."""
        return _of(x, lambda values: self._pack(values, k))

    def run(self, layers: Iterable[nn.Module], x: Any, k: int, *, num_maps: int) -> list[Any]:
        """What step k codes of each of the maps that `layers` make of x; a narrow last layer computes nothing else."""
        *first, last = layers
        for layer in first:
            x = layer(x)
        if not isinstance(last, FixedConv2d) or not last.pointwise or last.dtype == torch.float64:
            return [self.pack(part, k) for part in last(x).chunk(num_maps, dim=1)]
        packed: list[Any] = []
        for i in range(num_maps):
            out = self._empty(x.values, self.group)
            for channels, rows, columns in self._places(k):
                wanted = slice(i * self.channels + channels.start, i * self.channels + channels.stop)
                part = last.of_channels(replace(x, values=x.values[:, :, rows, columns]), wanted)
                out[:, :, rows, columns] = part.values
            packed.append(replace(part, values=out))
        return packed

    def put(self, x: Any, packed: Any, k: int) -> Any:
        """x with `packed` where step k codes."""
        return _of(x, lambda values: self._put(values.clone(), packed if isinstance(packed, Tensor) else packed.values, k))

    def unpack_one(self, packed: Any, k: int) -> Any:
        """Inverse of `pack`, zero where step k does not code."""
        return _of(packed, lambda values: self._put(self._empty(values, self.channels).zero_(), values, k))

    def unpack(self, steps: Sequence[Tensor]) -> Tensor:
        """What all four steps code, in its places."""
        out = self._empty(steps[0], self.channels)
        for k, packed in enumerate(steps):
            out = self._put(out, packed, k)
        return out

    def _pack(self, x: Tensor, k: int) -> Tensor:
        if x.shape[2:] != (self.height, self.width):
            x = x.expand(-1, self.channels, self.height, self.width)
        out = self._empty(x, self.group)
        for channels, rows, columns in self._places(k):
            out[:, :, rows, columns] = x[:, channels, rows, columns]
        return out

    def _put(self, x: Tensor, packed: Tensor, k: int) -> Tensor:
        for channels, rows, columns in self._places(k):
            x[:, channels, rows, columns] = packed[:, :, rows, columns]
        return x

    def _empty(self, like: Tensor, channels: int) -> Tensor:
        """For as many photos as `like` has; channels last, as the layers leave their results."""
        return like.new_empty((len(like), self.height, self.width, channels)).permute(0, 3, 1, 2)

    def _places(self, k: int) -> Iterator[tuple[slice, slice, slice]]:
        for group, position in enumerate(_POSITIONS[k]):
            channels = slice(group * self.group, (group + 1) * self.group)
            yield channels, slice(position // 2, None, 2), slice(position % 2, None, 2)


def in_strips(run: Callable[..., tuple[Any, ...]], *maps: Any, margin: int) -> tuple[Any, ...]:
    """`run(*maps)`, of large maps in strips of rows, which stay in a cache and need little memory.

    Args:
        run: maps of one height -> maps of the same height.
        maps: B x any x h x w, tensors or `Fixed`.
        margin: rows above and below that a row of the result depends on.
    """
    batch, _, height, width = maps[0].shape
    num_strips = batch * height * width // STRIP_POSITIONS
    if num_strips < 2:
        return run(*maps)
    rows, margin = -(-height // num_strips // 2) * 2, -(-margin // 2) * 2  # even: cells stay whole

    def rows_of(maps: Sequence[Any], first: int, last: int) -> list[Any]:
        return [_of(x, lambda values: values[:, :, first:last]) for x in maps]

    strips = []
    for top in range(0, height, rows):
        first, last = max(0, top - margin), min(height, top + rows + margin)
        strips.append(rows_of(run(*rows_of(maps, first, last)), top - first, min(height, top + rows) - first))
    return tuple(joined(parts, height) for parts in zip(*strips, strict=True))


def whole(run: Callable[..., tuple[Any, ...]], *maps: Any, margin: int) -> tuple[Any, ...]:
    """`run(*maps)`; called like `in_strips`."""
    return run(*maps)


def _of(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return function(x) if isinstance(x, Tensor) else x.map(function)
