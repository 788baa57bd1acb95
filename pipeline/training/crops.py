"""Which crops each step takes, and cutting them.

What a step takes follows from its number and the seed alone: a resumed run goes on where it was, and any process can make any
share of any batch. One process holds its photos in memory, on the GPU if there is one and they fit: there a step costs
no decoding and no transfer. The draws come from the CPU's generator, so that every device cuts the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.synthetic import synthetic_crop

MAX_DEVICE_SHARE = 0.3
"""Of a GPU's free memory, what photos may take."""
NO_PHOTO = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """A batch, or a share of one."""

    pixels: Tensor
    """B x 3 x size x size, uint8."""
    photos: list[int]
    """Which photo each comes from; `NO_PHOTO` for a drawn picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a crop lies in a photo."""

    photo: int
    top: int
    left: int
    is_mirrored: bool


Draw = Cut | NDArray[np.uint8]
"""What to cut, or a drawn picture, size x size x 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPlan:
    """The crops of every step."""

    sizes: NDArray[np.int64]
    """Photos x 2: heights and widths, none under `size`."""
    num_crops: int
    """A step."""
    size: int
    """Pixels a side."""
    synthetic_share: float
    seed: int

    def of_step(self, step: int) -> list[Draw]:
        """The whole batch of a step."""
        return self._draw(np.random.default_rng((self.seed, step)), self.num_crops)

    def before_step_0(self, num_batches: int) -> list[list[Draw]]:
        """Batches to prepare with."""
        # A last number of 0 would be no other seed than none.
        return [self._draw(np.random.default_rng((self.seed, 0, 1 + i)), self.num_crops) for i in range(num_batches)]

    def samples(self, num_crops: int) -> list[Draw]:
        """Crops of photos to look at, the same ones in every run of a seed."""
        return draw(self.sizes, num_crops=num_crops, size=self.size, rng=np.random.default_rng(self.seed))

    def _draw(self, rng: np.random.Generator, num_crops: int) -> list[Draw]:
        return draw(self.sizes, num_crops=num_crops, size=self.size, rng=rng, synthetic_share=self.synthetic_share)


def draw(
    sizes: NDArray[np.int64], *, num_crops: int, size: int, rng: np.random.Generator, synthetic_share: float = 0.0
) -> list[Draw]:
    """Random crops, half of them mirrored. Larger photos are drawn more often.

    Args:
        sizes: photos x 2, heights and widths.
        size: pixels a side; no photo may be smaller.
        synthetic_share: of the crops, those that are drawn pictures and not taken from photos.
    """
    areas = sizes.prod(axis=1).astype(np.float64)
    drawn: list[Draw] = []
    for photo in rng.choice(len(sizes), size=num_crops, p=areas / areas.sum()):
        if rng.random() < synthetic_share:
            drawn.append(synthetic_crop(size, rng))
        else:
            top, left = (int(rng.integers(side - size + 1)) for side in sizes[photo])
            drawn.append(Cut(photo=int(photo), top=top, left=left, is_mirrored=bool(rng.random() < 0.5)))
    return drawn


def cut(draws: Sequence[Draw], size: int, photo: Callable[[int], Tensor]) -> Crops:
    """Cut what was drawn.

    Args:
        photo: index -> H x W x 3, uint8, all on one device.
    """
    pixels, photos = [], []
    for each in draws:
        if isinstance(each, Cut):
            crop = photo(each.photo)[each.top : each.top + size, each.left : each.left + size]
            pixels.append((crop.flip(1) if each.is_mirrored else crop).permute(2, 0, 1))
            photos.append(each.photo)
        else:
            pixels.append(as_tensor(each).permute(2, 0, 1))
            photos.append(NO_PHOTO)
    device = next((p.device for p, i in zip(pixels, photos, strict=True) if i != NO_PHOTO), torch.device("cpu"))
    return Crops(pixels=torch.stack([p.to(device) for p in pixels]), photos=photos)


class CropSource:
    """Photos, H x W x 3 uint8, to cut from."""

    def __init__(self, photos: Sequence[NDArray[np.uint8]], *, device: str) -> None:
        """Take the photos to `device`, unless they would fill it."""
        num_bytes = sum(photo.nbytes for photo in photos)
        is_cuda = torch.device(device).type == "cuda"
        fits = is_cuda and num_bytes < MAX_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        self.device = torch.device(device if fits else "cpu")
        self._photos = [as_tensor(photo).to(self.device) for photo in photos]
        self.sizes = np.array([photo.shape[:2] for photo in photos], dtype=np.int64)

    def cut(self, draws: Sequence[Draw], size: int) -> Crops:
        """The crops that were drawn, where the photos are held."""
        return cut(draws, size, self._photos.__getitem__)


def as_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """The same memory, or a copy where torch could not write into it."""
    return torch.from_numpy(np.require(pixels, requirements=("C", "W")))
