"""Tiles cover an image, and blending them shows no seam."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.codecs.neural.tiling import assemble, spans


@pytest.mark.parametrize(("size", "tile", "overlap"), [(10, 16, 4), (16, 16, 4), (17, 16, 4), (100, 16, 4), (41, 10, 9)])
def test_spans_cover_the_axis_and_say_what_they_share(size: int, tile: int, overlap: int) -> None:
    found = spans(size, tile=tile, overlap=overlap)
    assert found[0].start == 0
    assert found[0].shared == 0
    assert found[-1].stop == size
    assert {span.stop - span.start for span in found} == {min(tile, size)}
    for before, after in pairwise(found):
        assert after.shared == before.stop - after.start >= overlap
        assert after.stop > before.stop


def test_tiles_without_room_are_refused() -> None:
    with pytest.raises(ValueError, match="larger than their overlap"):
        spans(100, tile=8, overlap=8)


def put_together(image: Tensor, run: Callable[[Tensor], Tensor], *, tile: int, overlap: int, dtype: torch.dtype) -> Tensor:
    (canvas,) = assemble(
        lambda window: [run(window.of(image))],
        (image.shape[2], image.shape[3]),
        lambda _, band: torch.full(image.shape, 99, dtype=dtype),
        [1],
        tile=tile,
        overlap=overlap,
    )
    return canvas


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_tiles_of_an_image_put_together_are_the_image(dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (2, 3, 57, 83), generator=torch.Generator().manual_seed(0)).float()
    assert torch.allclose(put_together(image, torch.clone, tile=24, overlap=8, dtype=dtype).float(), image, atol=1e-4)


def test_blurring_tiles_equals_blurring_the_whole() -> None:
    """Overlap beyond the reach of the operation: what a tile's own border spoils is not used."""
    image = torch.rand(1, 1, 100, 140, generator=torch.Generator().manual_seed(0))
    kernel = torch.ones(1, 1, 5, 5) / 25

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, padding=2)

    assert torch.allclose(put_together(image, blur, tile=40, overlap=12, dtype=torch.float32), blur(image), atol=1e-6)


def test_outputs_of_several_scales_come_back_at_their_own() -> None:
    image = torch.rand(1, 2, 48, 64, generator=torch.Generator().manual_seed(0))
    large = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = assemble(
        lambda window: [window.of(image), window.scaled(2).of(large)],
        (48, 64),
        lambda i, band: torch.zeros_like(large if i else image),
        [1, 2],
        tile=20,
        overlap=6,
    )
    assert torch.allclose(found[0], image)
    assert torch.allclose(found[1], large)


def test_tiles_that_differ_in_brightness_meet_in_a_ramp() -> None:
    levels = iter(range(100))
    image = torch.zeros(1, 1, 64, 256)
    canvas = put_together(image, lambda x: torch.full_like(x, next(levels)), tile=64, overlap=32, dtype=torch.float32)
    steps = canvas[0, 0].diff(dim=1).abs()
    assert steps.max() < 0.1  # a seam would be a step of 1
    assert canvas.max() > 5
