"""An archive as a mapping of keys to photos."""

from __future__ import annotations

import builtins
import glob
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from photoark._jobs import options_of
from pipeline.archive.reader import Archive as ArchiveReader
from pipeline.archive.reader import count_rows, find, list_fragments, read_fragment, read_rows, resolve
from pipeline.codecs.registry import CodecOptions
from pipeline.decode.restore import batches, decode_batch, decode_row, file_of, is_whole, original_of
from pipeline.errors import KeyNotFoundError, PhotoarkError, PhotoError
from pipeline.patterns import EVERY_KEY, KeyPatterns
from pipeline.records import ARCHIVE_SCHEMA, BLOB_COLUMNS, STREAM_COLUMNS, EncodedPhoto, Outcome

if TYPE_CHECKING:
    from types import TracebackType

    import pandas
    from PIL import Image

_METADATA = tuple(name for name in ARCHIVE_SCHEMA.names if name not in BLOB_COLUMNS)
_BATCH_PIXELS = 1 << 25


class Photo:
    """One photo of an archive. Nothing is decoded before it is asked for, and nothing twice.

    Example:
        >>> import photoark
        >>> with photoark.open("archive") as archive:
        ...     photo = archive["a.jpg"]
        >>> photo.pixels.shape, photo.row.format
        ((120, 160, 3), 'JPEG')
    """

    def __init__(self, row: EncodedPhoto, archive: ArchiveReader, options: CodecOptions) -> None:
        self.row = row
        """All that the archive holds of the photo: the stream, its codec, metadata, the source's size and SHA-256."""
        self._archive = archive
        self._options = options
        self._pixels: NDArray[np.uint8] | PhotoarkError | None = None

    def __repr__(self) -> str:
        return f"<Photo {self.key!r}: {self.row.outcome}, {self.row.codec}, {self.row.width} x {self.row.height}>"

    @property
    def key(self) -> str:
        """Path of the photo relative to its source, with `/` between parts."""
        return self.row.key

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The photo as displayed: H x W x 3, RGB, 0..255.

        Raises:
            PhotoError: it failed when it was encoded, or it is kept as its bytes and no picture of 8-bit RGB.
            StreamError: its bitstream is damaged, or its codec is not installed.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     archive["a.jpg"].pixels.dtype
            dtype('uint8')
        """
        if self._pixels is None:
            self._pixels = self._decoded()
        if isinstance(self._pixels, PhotoarkError):
            raise self._pixels
        return self._pixels

    def image(self) -> Image.Image:
        """Return the photo as a Pillow image; a file that is kept as its bytes is opened as it is.

        Raises:
            PhotoError, StreamError: as `pixels`.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     archive["a.jpg"].image().size
            (160, 120)
        """
        from PIL import Image

        if self.row.outcome is Outcome.KEPT:
            try:
                return Image.open(io.BytesIO(self.row.image or b""))
            except OSError as error:
                raise PhotoError(f"it is kept as its bytes, and no picture: {error}", key=self.key) from error
        image = Image.fromarray(self.pixels)
        if self.row.icc:
            image.info["icc_profile"] = self.row.icc
        return image

    def bytes(self, format: str | None = None) -> builtins.bytes:
        """Return the photo as a file, with its metadata.

        Args:
            format: Pillow's name of the container, such as PNG; None for the source's own.

        Raises:
            PhotoError: it failed when it was encoded, or the format cannot be written.
            StreamError: its bitstream is damaged, or its codec is not installed.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     archive["a.jpg"].bytes()[:2]
            b'\\xff\\xd8'
        """
        if self.row.outcome is Outcome.FAILED:
            raise PhotoError(f"nothing to restore, it failed when it was encoded: {self.row.reason}", key=self.key)
        return file_of(self.row, None if is_whole(self.row, format) else self.pixels, format=format)

    def original(self) -> builtins.bytes:  # `bytes` is the method here
        """Return the source file's own bytes, where they were stored; their SHA-256 is checked.

        Raises:
            PhotoError: they were not stored.
            ArchiveDamagedError: they are not those that were read.
        """
        row = self.row
        if row.outcome is Outcome.ENCODED and row.original is None:
            row = find(self._archive, row.key, with_original=True)
        return original_of(row)

    def _decoded(self) -> NDArray[np.uint8]:
        pixels = decode_row(self.row, self._options)
        if pixels is not None:
            return pixels
        from pipeline.pixels.sandbox.client import read_pixels

        return read_pixels(self.row.image or b"")


class Archive:
    """The photos of an archive by their keys, opened to read: what `open` returns.

    It is a mapping: `archive[key]`, `key in archive`, `len(archive)`, iteration over keys. Photos that others add while it is
    open are seen after `refresh`.

    Example:
        >>> import photoark
        >>> with photoark.open("archive") as archive:
        ...     list(archive), "a.jpg" in archive, len(archive)
        (['a.jpg', 'b.jpg'], True, 2)
    """

    def __init__(self, url: str | PathLike[str], *, weights: str | PathLike[str] | None = None, device: str = "auto") -> None:
        """See `open`."""
        self._reader = ArchiveReader.open(fspath(url))
        self._options = options_of(weights, device)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __repr__(self) -> str:
        return f"<Archive {self._reader.storage.url!r}>"

    def __getitem__(self, key: str) -> Photo:
        """Look up one photo: one small ranged read.

        Raises:
            KeyNotFoundError: there is none; it is a `KeyError`.
            ArchiveDamagedError: its shard is missing or damaged.
        """
        return self._photo(find(self._reader, key))

    def get(self, key: str) -> Photo | None:
        """Return the photo of `key`; None if there is none."""
        try:
            return self[key]
        except KeyNotFoundError:
            return None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __len__(self) -> int:
        return count_rows(self._reader)

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that begin with `prefix`, failed rows' included; sorted within each shard.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     list(archive.keys(prefix="b"))
            ['b.jpg']
        """
        patterns = KeyPatterns(include=(f"{glob.escape(prefix)}*",)) if prefix else EVERY_KEY
        return (row.key for row in read_rows(self._reader, patterns, []))

    def sample(self, n: int, *, seed: int | None = None) -> list[Photo]:
        """Return `n` photos drawn at random, each at most once; all of them if there are fewer. Failed rows are left out.

        Args:
            seed: for the same draw each time.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     len(archive.sample(1, seed=0))
            1
        """
        keys = sorted(row.key for row in read_rows(self._reader, EVERY_KEY, []) if row.outcome is not Outcome.FAILED)
        return [self[key] for key in random.Random(seed).sample(keys, min(n, len(keys)))]

    def batches(self, size: int = 32, *, keys: Iterable[str] | None = None) -> Iterator[list[Photo]]:
        """Yield photos `size` at a time, their pixels decoded together; failed rows are left out.

        A photo that cannot be decoded does not stop the others: its `pixels` raises why.

        Args:
            size: photos of a list; the last may have fewer.
            keys: which photos, in this order; None for all, shard after shard.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     [[photo.key for photo in batch] for batch in archive.batches(2)]
            [['a.jpg', 'b.jpg']]
        """
        rows = self._rows() if keys is None else (find(self._reader, key) for key in keys)
        stored = (row for row in rows if row.outcome is not Outcome.FAILED)
        while chosen := list(islice(stored, size)):
            photos = {row.key: self._photo(row) for row in chosen}
            encoded = [row for row in chosen if row.outcome is Outcome.ENCODED]
            for group in batches(encoded, max_pixels=_BATCH_PIXELS):
                for row, pixels in zip(group, decode_batch(group, self._options), strict=True):
                    photos[row.key]._pixels = pixels
            yield [photos[row.key] for row in chosen]

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return one row a photo, without streams and metadata blocks.

        Args:
            columns: names of `pipeline.records.ARCHIVE_SCHEMA`; None for all that are small.

        Example:
            >>> import photoark
            >>> with photoark.open("archive") as archive:
            ...     archive.to_arrow(["key", "codec"]).to_pylist()
            [{'key': 'a.jpg', 'codec': 'webp'}, {'key': 'b.jpg', 'codec': 'webp'}]
        """
        names = list(columns or _METADATA)
        tables = [read_fragment(self._reader.storage, fragment, names) for fragment in list_fragments(self._reader)]
        if not tables:
            return pa.schema([ARCHIVE_SCHEMA.field(name) for name in names]).empty_table()
        return pa.concat_tables(tables).select(names)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pandas.DataFrame:
        """Return `to_arrow` as a data frame of pandas, which must be installed."""
        frame: Any = self.to_arrow(columns).to_pandas()
        return frame

    def refresh(self) -> None:
        """See what others committed since the archive was opened.

        Raises:
            ArchiveError: the log cannot be read.
        """
        self._reader.log.refresh()

    def _rows(self) -> Iterator[EncodedPhoto]:
        for row in read_rows(self._reader, EVERY_KEY, STREAM_COLUMNS):
            yield resolve(self._reader, row)

    def _photo(self, row: EncodedPhoto) -> Photo:
        return Photo(row, self._reader, self._options)


def open(url: str | PathLike[str], *, weights: str | PathLike[str] | None = None, device: str = "auto") -> Archive:
    """Open an archive to read.

    Args:
        url: folder or URL of the archive.
        weights: frozen checkpoint of a neural codec; None for the one that comes with the package.
        device: auto, cpu or cuda.

    Raises:
        ArchiveNotFoundError: there is no archive.
        ArchiveError: it cannot be opened.

    Example:
        >>> import photoark
        >>> with photoark.open("archive") as archive:
        ...     archive["b.jpg"].row.codec
        'webp'
    """
    return Archive(url, weights=weights, device=device)
