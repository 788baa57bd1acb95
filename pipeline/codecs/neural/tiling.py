"""A large image through a network in overlapping tiles, blended so that no seam shows.

windows   ......[ tile ]......      along one axis; neighbours share `overlap`, the last one ends with the image
             [ tile ]
weight    0 0 / / / 1 1 1           of a tile against what lies there already, over the shared part: nothing in the first
                                    quarter, where the tile's own border shows, then a ramp, then all
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Part of an axis."""

    start: int
    stop: int
    shared: int
    """How much of it the span before covers as well."""

    def scaled(self, factor: int) -> Span:
        """The same part in units `factor` times finer."""
        return Span(self.start * factor, self.stop * factor, self.shared * factor)


@dataclass(frozen=True, slots=True)
class Window:
    """A tile's place in an image."""

    rows: Span
    columns: Span

    def scaled(self, factor: int) -> Window:
        """The same place in units `factor` times finer."""
        return Window(self.rows.scaled(factor), self.columns.scaled(factor))

    def of(self, image: Tensor) -> Tensor:
        """View of `image`, ... x H x W."""
        return image[..., self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]


def assemble(
    run: Callable[[Window], Sequence[Tensor]],
    size: tuple[int, int],
    make_canvas: Callable[[int, Tensor], Tensor],
    factors: Sequence[int],
    *,
    tile: int,
    overlap: int,
) -> list[Tensor]:
    """What `run` makes of an image of `size`, tile by tile, blended.

    Args:
        run: given a tile's window, its outputs, each ... x h x w, in units `factors` times finer than `size`.
        make_canvas: given the number of an output and its first tile, the empty canvas of the whole output.
    """
    height, width = size
    canvases: list[Tensor] = []
    for rows in spans(height, tile=tile, overlap=overlap):
        bands: list[Tensor] = []
        for columns in spans(width, tile=tile, overlap=overlap):
            tiles = run(Window(rows, columns))
            if not bands:
                bands = [t.new_empty(*t.shape[:-1], width * f) for t, f in zip(tiles, factors, strict=True)]
            for band, part, factor in zip(bands, tiles, factors, strict=True):
                _blend(band, part, columns.scaled(factor), dim=-1)
        if not canvases:
            canvases = [make_canvas(i, band) for i, band in enumerate(bands)]
        # A band is whole before it meets the one above: where four tiles meet, no border of any of them is used.
        for canvas, band, factor in zip(canvases, bands, factors, strict=True):
            _blend(canvas, band, rows.scaled(factor), dim=-2)
    return canvases


def spans(size: int, *, tile: int, overlap: int) -> list[Span]:
    """Spans of `tile` that cover an axis of `size`; neighbours share at least `overlap`."""
    if overlap >= tile:
        raise ValueError("tiles must be larger than their overlap")
    found = [Span(0, min(tile, size), 0)]
    while found[-1].stop < size:
        start = min(found[-1].stop - overlap, size - tile)
        found.append(Span(start, start + tile, found[-1].stop - start))
    return found


def _blend(canvas: Tensor, part: Tensor, span: Span, *, dim: int) -> None:
    """Put `part` into `canvas` at `span` of axis `dim`, over what lies there already."""
    place = canvas.narrow(dim, span.start, span.stop - span.start)
    part = part.to(canvas.device)
    if span.shared:
        at = (torch.arange(span.shared, dtype=torch.float32, device=part.device) + 0.5) / span.shared
        weight = (2 * at - 0.5).clamp(0, 1).to(part.dtype)
        weight = weight if dim == -1 else weight.unsqueeze(1)
        before, now = place.narrow(dim, 0, span.shared), part.narrow(dim, 0, span.shared)
        mixed = before.to(part.dtype) * (1 - weight) + now * weight
        before.copy_(mixed if canvas.is_floating_point() else mixed.round_())
    rest = span.stop - span.start - span.shared
    new = part.narrow(dim, span.shared, rest)
    place.narrow(dim, span.shared, rest).copy_(new if canvas.is_floating_point() else new.round())
