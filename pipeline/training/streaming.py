"""Photos that stay where they are: an index of them, and the crops of each step cut from files as the step comes near.

    files ──each decoded once──► sizes ──► CropPlan ──step──► draws ──this worker's share──► read, decode, cut ──► Crops

Whoever calls brings a `Stream`, which spreads the work: Ray Data over a cluster (`cluster.train.stream`), or a plain loop. The
plan is that of a process that holds the photos, so that the crops are the same to the pixel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import UnreadablePhotoError
from pipeline.training.crops import CropPlan, Crops, Draw, as_tensor, cut
from pipeline.training.data import FileRef, Listing, decode

log = logging.getLogger(__name__)

Item = dict[str, NDArray[Any]]
Stream = Callable[[range, Callable[[int], Item]], Iterator[Item]]
"""(indices, make) -> make(index) of each, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoIndex:
    """Photos by where their bytes lie."""

    files: Sequence[FileRef]
    sizes: NDArray[np.int64]
    """Photos x 2: heights and widths."""
    texts: NDArray[np.float32] | None
    """As in `data.Photos`."""

    def pixels(self, photo: int) -> Tensor:
        """H x W x 3, uint8.

        Raises:
            UnreadablePhotoError: the file has changed since it was indexed.
        """
        pixels = decode(self.files[photo])
        if pixels is None or pixels.shape[:2] != tuple(self.sizes[photo]):
            raise UnreadablePhotoError(
                "the file has changed since training began; run the same command again", key=self.files[photo].name
            )
        return as_tensor(pixels)


def index_photos(sources: Sequence[Path], *, min_side: int, stream: Stream) -> PhotoIndex:
    """Look through `sources` as `data.load_with_texts` does, and keep no pixels.

    Raises:
        SettingError: as there.
    """
    listing = Listing.of([source.resolve() for source in sources])
    found = stream(range(len(listing.photos)), partial(_size, listing.photos))
    sizes = np.array([item["size"] for item in found], dtype=np.int64).reshape(-1, 2)
    for file, size in zip(listing.photos, sizes, strict=True):
        # Why, is in the log of whichever process tried.
        if not size.all():
            log.info("%s left out: it cannot be decoded", file.name)
    usable = listing.usable([(int(h), int(w)) for h, w in sizes], min_side=min_side)
    files = [listing.photos[i] for i in usable]
    return PhotoIndex(files=files, sizes=sizes[usable], texts=listing.texts_of(files))


def streamed(index: PhotoIndex, plan: CropPlan, steps: range, *, share: slice, stream: Stream) -> Iterator[Crops]:
    """The share `share` of the crops of each of `steps`."""
    for item in stream(steps, partial(_crops, index, plan, share)):
        # A copy: what comes from Ray cannot be written, and torch wants that it could be.
        yield Crops(pixels=torch.from_numpy(item["pixels"].copy()), photos=item["photos"].tolist())


def cut_from_files(index: PhotoIndex, draws: Sequence[Draw], size: int) -> Crops:
    """The crops that were drawn, read in this process."""
    return cut(draws, size, index.pixels)


def _size(files: Sequence[FileRef], i: int) -> Item:
    pixels = decode(files[i])
    return {"size": np.array((0, 0) if pixels is None else pixels.shape[:2], dtype=np.int64)}


def _crops(index: PhotoIndex, plan: CropPlan, share: slice, step: int) -> Item:
    crops = cut_from_files(index, plan.of_step(step)[share], plan.size)
    return {"pixels": crops.pixels.numpy(), "photos": np.array(crops.photos, dtype=np.int64)}
