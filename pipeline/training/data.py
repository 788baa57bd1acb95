"""Crops to train on, from image tars and folders.

Photos are decoded once and held in memory as uint8 (about 0.7 GB per 1,000 photos of 0.25 MP); a crop then costs a copy.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PhotoError, SettingError
from pipeline.pixels.reader import read_pixels
from pipeline.training.synthetic import synthetic_crop

log = logging.getLogger(__name__)


def load_photos(sources: Sequence[Path], *, min_side: int, num_threads: int = 4) -> list[NDArray[np.uint8]]:
    """Decode every photo of `sources` (tar files, folders, single images) whose shorter side is at least `min_side`.

    Returns:
        H x W x 3 uint8 arrays, in the order of the sources. Files that are no photos are logged and left out.

    Raises:
        SettingError: a source does not exist, or nothing usable was found.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        decoded = list(pool.map(lambda item: _decode(*item), _files(sources)))
    photos = [pixels for pixels in decoded if pixels is not None and min(pixels.shape[:2]) >= min_side]
    if not photos:
        raise SettingError(f"no photo of at least {min_side} pixels a side in {', '.join(map(str, sources))}")
    if len(photos) < len(decoded):
        log.warning(
            "%d of %d files left out: unreadable or under %d pixels", len(decoded) - len(photos), len(decoded), min_side
        )
    return photos


def sample_crops(
    photos: Sequence[NDArray[np.uint8]],
    *,
    num_crops: int,
    size: int,
    rng: np.random.Generator,
    synthetic_share: float = 0.0,
) -> NDArray[np.uint8]:
    """Random crops, half of them mirrored: num_crops x 3 x size x size. Larger photos are drawn more often.

    Args:
        synthetic_share: of the crops, those that are drawn and not taken from photos.
    """
    areas = np.array([p.shape[0] * p.shape[1] for p in photos], dtype=np.float64)
    crops = np.empty((num_crops, 3, size, size), dtype=np.uint8)
    for i, index in enumerate(rng.choice(len(photos), size=num_crops, p=areas / areas.sum())):
        if rng.random() < synthetic_share:
            crops[i] = synthetic_crop(size, rng).transpose(2, 0, 1)
            continue
        photo = photos[index]
        top = rng.integers(photo.shape[0] - size + 1)
        left = rng.integers(photo.shape[1] - size + 1)
        crop = photo[top : top + size, left : left + size]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        crops[i] = crop.transpose(2, 0, 1)
    return crops


def _files(sources: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    for source in sources:
        if source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.is_file() and p.suffix != ".tar"):
                yield str(path), path.read_bytes()
            for path in sorted(source.rglob("*.tar")):
                yield from _members(path)
        elif source.suffix == ".tar" and source.is_file():
            yield from _members(source)
        elif source.is_file():
            yield str(source), source.read_bytes()
        else:
            raise SettingError(f"{source}: no such file or folder of training photos")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            handle = archive.extractfile(member) if member.isfile() else None
            if handle is not None:
                yield f"{path}/{member.name}", handle.read()


def _decode(name: str, data: bytes) -> NDArray[np.uint8] | None:
    try:
        return read_pixels(data)
    except PhotoError as error:
        log.info("%s left out: %s", name, error)
        return None
