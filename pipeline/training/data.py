"""Photos to train on, from image tars and folders, and the text embeddings beside them.

One process decodes its photos once and holds them as uint8 (about 0.7 GB per 1,000 photos of 0.25 MP), `crops` cuts from them;
several leave them where they are and read them over and over (`streaming`).
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from os.path import splitext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PhotoError, SettingError
from pipeline.pixels.formats.reader import read_pixels

log = logging.getLogger(__name__)
_TEXT_SUFFIXES = (".npy", ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photos:
    """What there is to train on."""

    pixels: list[NDArray[np.uint8]]
    """H x W x 3 each."""
    texts: NDArray[np.float32] | None
    """Embeddings of their captions, a row a photo, zeros where there is none; None if no photo has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRef:
    """A file, or a member of a tar, by where its bytes lie."""

    name: str
    path: str
    offset: int
    num_bytes: int

    def read(self) -> bytes:
        """Its bytes."""
        with open(self.path, "rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.num_bytes)


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
    listing = Listing.of(sources)
    with ThreadPoolExecutor(num_threads) as pool:
        decoded = list(pool.map(decode, listing.photos))
    sizes = [(0, 0) if pixels is None else (pixels.shape[0], pixels.shape[1]) for pixels in decoded]
    usable = listing.usable(sizes, min_side=min_side)
    return Photos(
        pixels=[pixels for i in usable if (pixels := decoded[i]) is not None],
        texts=listing.texts_of([listing.photos[i] for i in usable]),
    )


def decode(file: FileRef) -> NDArray[np.uint8] | None:
    """H x W x 3; None, with a line in the log, of what is no photo."""
    try:
        # As `crops` needs them, or it would hold them twice.
        return np.require(read_pixels(file.read()), requirements=("C", "W"))
    except PhotoError as error:
        log.info("%s left out: %s", file.name, error)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What some sources hold, unread."""

    sources: Sequence[Path]
    photos: list[FileRef]
    """In the order of the sources; some may be no photos."""
    texts: dict[str, list[FileRef]]
    """By the name without its suffix; some may be no embeddings."""

    @classmethod
    def of(cls, sources: Sequence[Path]) -> Listing:
        """List tars, folders and single images.

        Raises:
            SettingError: a source does not exist, or is no tar.
        """
        photos, texts = [], defaultdict(list)
        for file in _files(sources):
            stem, suffix = splitext(file.name)
            if suffix in _TEXT_SUFFIXES:
                texts[stem].append(file)
            else:
                photos.append(file)
        return cls(sources=sources, photos=photos, texts=dict(texts))

    def usable(self, sizes: Sequence[tuple[int, int]], *, min_side: int) -> list[int]:
        """Which of `photos` there is something to cut from, given their heights and widths, 0 where they cannot be decoded.

        Raises:
            SettingError: none.
        """
        found = [i for i, size in enumerate(sizes) if min(size) >= max(1, min_side)]
        if not found:
            raise SettingError(f"no photo of at least {min_side} pixels a side in {', '.join(map(str, self.sources))}")
        if num_left_out := len(sizes) - len(found):
            log.warning("%d of %d files left out: unreadable or under %d pixels", num_left_out, len(sizes), min_side)
        return found

    def texts_of(self, photos: Sequence[FileRef]) -> NDArray[np.float32] | None:
        """The embeddings beside these photos, as in `Photos`.

        Raises:
            SettingError: they differ in length.
        """
        embeddings = [self._embedding_of(photo) for photo in photos]
        lengths = sorted({len(embedding) for embedding in embeddings if embedding is not None})
        if not lengths:
            return None
        if len(lengths) > 1:
            raise SettingError(
                f"text embeddings beside the photos have {lengths[0]} to {lengths[-1]} numbers: make all with one model"
            )
        return np.stack([np.zeros(lengths[0], np.float32) if embedding is None else embedding for embedding in embeddings])

    def _embedding_of(self, photo: FileRef) -> NDArray[np.float32] | None:
        found = (_embedding(text) for text in self.texts.get(splitext(photo.name)[0], ()))
        return next((embedding for embedding in found if embedding is not None), None)


def _embedding(file: FileRef) -> NDArray[np.float32] | None:
    """The vector in an .npy or .json file; None where it holds something else, as the .json of many data sets does."""
    try:
        data = file.read()
        values = np.load(BytesIO(data), allow_pickle=False) if file.name.endswith(".npy") else json.loads(data)
        if isinstance(values, dict):
            values = values["embedding"]
        vector = np.asarray(values, dtype=np.float32).ravel()
    except (ValueError, TypeError, KeyError, EOFError):
        log.info("%s holds no text embedding", file.name)
        return None
    return vector if vector.size and np.isfinite(vector).all() else None


def _files(sources: Sequence[Path]) -> Iterator[FileRef]:
    for source in sources:
        if source.is_dir():
            for path in sorted(p for p in source.rglob("*") if p.is_file() and p.suffix != ".tar"):
                yield _file(path)
            for path in sorted(source.rglob("*.tar")):
                yield from _members(path)
        elif source.suffix == ".tar" and source.is_file():
            yield from _members(source)
        elif source.is_file():
            beside = (source.with_suffix(suffix) for suffix in _TEXT_SUFFIXES)
            yield from map(_file, (source, *(p for p in beside if p.is_file())))
        else:
            raise SettingError(f"{source}: no such file or folder of training photos")


def _file(path: Path) -> FileRef:
    return FileRef(name=str(path), path=str(path), offset=0, num_bytes=path.stat().st_size)


def _members(path: Path) -> Iterator[FileRef]:
    try:
        # Of a compressed one, no member could be read by itself.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile():
                    name = f"{path}/{member.name}"
                    yield FileRef(name=name, path=str(path), offset=member.offset_data, num_bytes=member.size)
    except tarfile.ReadError as error:
        raise SettingError(f"{path} cannot be read as an uncompressed tar: {error}") from error
