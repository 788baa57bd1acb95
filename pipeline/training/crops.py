"""Crops of photos that are held in memory, cut and mirrored where they are held: on the GPU, if there is one and they fit.

There a step costs no decoding and no transfer. The draws come from the CPU's generator, so that every device cuts the same.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """A batch."""

    pixels: Tensor
    """B x 3 x size x size, uint8."""
    photos: list[int]
    """Which photo each comes from; `NO_PHOTO` for a drawn picture."""


class CropSource:
    """Photos, H x W x 3 uint8, to cut from."""

    def __init__(self, photos: Sequence[NDArray[np.uint8]], *, device: str) -> None:
        """Take the photos to `device`, unless they would fill it."""
        num_bytes = sum(photo.nbytes for photo in photos)
        is_cuda = torch.device(device).type == "cuda"
        fits = is_cuda and num_bytes < MAX_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        self.device = torch.device(device if fits else "cpu")
        self._photos = [self._taken(photo) for photo in photos]
        areas = np.array([photo.shape[0] * photo.shape[1] for photo in photos], dtype=np.float64)
        self._shares = areas / areas.sum()

    def draw(self, *, num_crops: int, size: int, rng: np.random.Generator, synthetic_share: float = 0.0) -> Crops:
        """Random crops, half of them mirrored. Larger photos are drawn more often.

        Args:
            size: pixels a side; no photo may be smaller.
            synthetic_share: of the crops, those that are drawn pictures and not taken from photos.
        """
        pixels, photos = [], []
        for index in rng.choice(len(self._photos), size=num_crops, p=self._shares):
            if rng.random() < synthetic_share:
                crop = self._taken(synthetic_crop(size, rng))
                photos.append(NO_PHOTO)
            else:
                photo = self._photos[index]
                top, left = (int(rng.integers(side - size + 1)) for side in photo.shape[:2])
                crop = photo[top : top + size, left : left + size]
                if rng.random() < 0.5:
                    crop = crop.flip(1)
                photos.append(int(index))
            pixels.append(crop.permute(2, 0, 1))
        return Crops(pixels=torch.stack(pixels), photos=photos)

    def _taken(self, pixels: NDArray[np.uint8]) -> Tensor:
        # torch takes no array that cannot be written.
        return torch.from_numpy(np.require(pixels, requirements=("C", "W"))).to(self.device)
