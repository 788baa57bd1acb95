"""Photos to train on, from image tars and folders, and the text embeddings beside them.

Photos are decoded once and held in memory as uint8 (about 0.7 GB per 1,000 photos of 0.25 MP); `crops` cuts from them.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from os.path import splitext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PhotoError, SettingError
from pipeline.pixels.reader import read_pixels

log = logging.getLogger(__name__)
_TEXT_SUFFIXES = (".npy", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """What there is to train on."""

    pixels: list[NDArray[np.uint8]]
    """H x W x 3 each."""
    texts: NDArray[np.float32] | None
    """Embeddings of their captions, a row a photo, zeros where there is none; None if no photo has one."""


def load_photos(sources: Sequence[Path], *, min_side: int, num_threads: int = 4) -> list[NDArray[np.uint8]]:
    """Decode every photo of `sources` (tar files, folders, single images) whose shorter side is at least `min_side`.

    Returns:
        H x W x 3 uint8 arrays, in the order of the sources. Files that are no photos are logged and left out.

    Raises:
        SettingError: a source does not exist, or nothing usable was found.
    """
    return load_with_texts(sources, min_side=min_side, num_threads=num_threads).pixels


def load_with_texts(sources: Sequence[Path], *, min_side: int, num_threads: int = 4) -> Photos:
    """As `load_photos`, with the text embeddings that lie beside the photos.

    That of `a/b.jpg` is `a/b.npy`, an array, or `a/b.json`, a list of numbers or an object with one under `embedding`; in a
    tar likewise.

    Raises:
        SettingError: as above, or embeddings differ in length.
    """
    embeddings: dict[str, NDArray[np.float32]] = {}

    def photos() -> Iterator[tuple[str, bytes]]:
        for name, data in _files(sources):
            stem, suffix = splitext(name)
            if suffix not in _TEXT_SUFFIXES:
                yield name, data
            elif (embedding := _embedding(name, data)) is not None:
                embeddings[stem] = embedding

    with ThreadPoolExecutor(num_threads) as pool:
        decoded = list(pool.map(lambda item: (item[0], _decode(*item)), photos()))
    found = [(name, pixels) for name, pixels in decoded if pixels is not None and min(pixels.shape[:2]) >= min_side]
    if not found:
        raise SettingError(f"no photo of at least {min_side} pixels a side in {', '.join(map(str, sources))}")
    if len(found) < len(decoded):
        log.warning("%d of %d files left out: unreadable or under %d pixels", len(decoded) - len(found), len(decoded), min_side)
    texts = _texts([embeddings.get(splitext(name)[0]) for name, _ in found])
    return Photos(pixels=[pixels for _, pixels in found], texts=texts)


def _texts(embeddings: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    lengths = sorted({len(embedding) for embedding in embeddings if embedding is not None})
    if not lengths:
        return None
    if len(lengths) > 1:
        raise SettingError(
            f"text embeddings beside the photos have {lengths[0]} to {lengths[-1]} numbers: make all with one model"
        )
    return np.stack([np.zeros(lengths[0], np.float32) if embedding is None else embedding for embedding in embeddings])


def _embedding(name: str, data: bytes) -> NDArray[np.float32] | None:
    """The vector in an .npy or .json file; None where it holds something else, as the .json of many data sets does."""
    try:
        values = np.load(BytesIO(data), allow_pickle=False) if name.endswith(".npy") else json.loads(data)
        if isinstance(values, dict):
            values = values["embedding"]
        vector = np.asarray(values, dtype=np.float32).ravel()
    except (ValueError, TypeError, KeyError, EOFError):
        log.info("%s holds no text embedding", name)
        return None
    return vector if vector.size and np.isfinite(vector).all() else None


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
            beside = (source.with_suffix(suffix) for suffix in _TEXT_SUFFIXES)
            for path in (source, *(p for p in beside if p.is_file())):
                yield str(path), path.read_bytes()
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
        # As `crops` needs them, or it would hold them twice.
        return np.require(read_pixels(data), requirements=("C", "W"))
    except PhotoError as error:
        log.info("%s left out: %s", name, error)
        return None
