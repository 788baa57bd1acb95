"""One photo back, without Ray: look it up, decode it, make a file of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from pipeline.archive.reader import Archive, find
from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.container_check import check_container
from pipeline.codecs.registry import DEFAULT_OPTIONS, CodecOptions, decoder_for
from pipeline.errors import (
    ArchiveDamagedError,
    CorruptStreamError,
    OriginalNotStoredError,
    PhotoarkError,
    PhotoError,
    StreamError,
)
from pipeline.pixels.formats.jpeg_xl import holds_jpeg, is_lossless
from pipeline.pixels.formats.writer import write_photo
from pipeline.pixels.metadata.xmp import marked
from pipeline.pixels.sandbox.client import to_jpeg
from pipeline.records import METADATA_COLUMNS, EncodedPhoto, Outcome, PhotoMetadata


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredPhoto:
    """A file as it goes out."""

    key: str
    data: bytes
    """In the source's format unless another was asked for; the source's own bytes where those were kept."""
    modified_at: datetime | None
    row: EncodedPhoto


def restore(
    archive: Archive | str,
    key: str,
    *,
    format: str | Callable[[EncodedPhoto], str | None] | None = None,
    original: bool = False,
    options: CodecOptions = DEFAULT_OPTIONS,
) -> RestoredPhoto:
    """Restore one photo of an archive.

    Args:
        archive: the archive, or its URL.
        key: as `photoark ls` prints it.
        format: Pillow's name of another container, such as PNG for no further loss; or a function that chooses one by the row,
            before anything is decoded.
        original: the source file's own bytes instead of what was decoded.

    Raises:
        KeyNotFoundError: there is no such photo.
        PhotoError: it failed when it was encoded, its format cannot be written, or its own bytes were not stored.
        StreamError: its bitstream is damaged, or its codec is not installed.
        ArchiveDamagedError: its shard is.
    """
    row = find(Archive.open(archive) if isinstance(archive, str) else archive, key, with_original=original)
    format = format(row) if callable(format) else format
    if original:
        data = original_of(row)
    else:
        data = file_of(row, None if is_whole(row, format) else decode_row(row, options), format=format)
    return RestoredPhoto(key=key, data=data, modified_at=row.modified_at, row=row)


def failure_of(row: EncodedPhoto) -> PhotoError:
    """The error that says why nothing can be restored of a row that failed."""
    return PhotoError(f"nothing to restore, it failed when it was encoded: {row.reason}", key=row.key)


def original_of(row: EncodedPhoto) -> bytes:
    """The source file's own bytes.

    Raises:
        OriginalNotStoredError: they were not stored.
        PhotoError: the row is a failure.
        StreamError: the bitstream that they are made of is damaged.
        ArchiveDamagedError: they are not those that were read.
    """
    if row.outcome is Outcome.FAILED:
        raise failure_of(row)
    if row.original is None and is_transcoded(row):
        return _reconstructed(row)
    data = row.image if row.outcome is Outcome.KEPT else row.original
    if data is None:
        raise OriginalNotStoredError("its own bytes were not stored; `encode --keep-original always` stores them", key=row.key)
    _check_sha256(row, data)
    return data


def is_transcoded(row: EncodedPhoto) -> bool:
    """Whether the bitstream of a row is a JPEG XL from which the source file itself can be made."""
    return row.outcome is Outcome.ENCODED and row.codec == "jxl" and holds_jpeg(row.image or b"")


def is_whole(row: EncodedPhoto, format: str | None = None) -> bool:
    """Whether `file_of` gives the source's own bytes and needs no pixels.

    Args:
        format: Pillow's name of the container that is asked for; None for the source's. Kept files come as they are always.
    """
    return row.outcome is Outcome.KEPT or (is_transcoded(row) and format in (None, "JPEG", row.format))


def decode_row(row: EncodedPhoto, options: CodecOptions = DEFAULT_OPTIONS) -> Pixels | None:
    """Pixels of an encoded row; None where the source's own bytes are stored.

    Raises:
        PhotoError: the row is a failure, with its reason.
        StreamError: the bitstream is damaged, or its codec is not installed.
    """
    if row.outcome is Outcome.FAILED:
        raise failure_of(row)
    if row.image is None or row.codec is None:
        raise ArchiveDamagedError("the row holds neither a bitstream nor a file", key=row.key)
    if row.outcome is Outcome.KEPT:
        return None
    try:
        codec = decoder(row.codec, row.model, options)
        check_container(row)  # before anything is decoded
        return codec.decode([row.image])[0]
    except StreamError as error:
        raise type(error)(error.message, key=row.key) from error


def batches(rows: Sequence[EncodedPhoto], *, max_pixels: int) -> list[list[EncodedPhoto]]:
    """Encoded rows of one codec and model each; which of them go through a network together is the codec's to choose.

    Args:
        max_pixels: of a batch; a larger photo goes alone.
    """
    groups: list[list[EncodedPhoto]] = []
    num_pixels = 0
    for row in sorted(rows, key=lambda row: (row.codec or "", row.model or "")):
        size = (row.width or 0) * (row.height or 0)
        is_like = groups and (groups[-1][0].codec, groups[-1][0].model) == (row.codec, row.model)
        if not is_like or num_pixels + size > max_pixels:
            groups.append([])
            num_pixels = 0
        groups[-1].append(row)
        num_pixels += size
    return groups


def decode_batch(rows: Sequence[EncodedPhoto], options: CodecOptions = DEFAULT_OPTIONS) -> list[Pixels | PhotoarkError]:
    """Pixels of each row of one of `batches`, or what went wrong.

    A batch that fails is halved until the stream that fails stands alone.
    """
    if len(rows) == 1 or not all(map(_is_consistent, rows)):
        return [_decode_alone(row, options) for row in rows]
    try:
        return list(decoder(rows[0].codec or "", rows[0].model, options).decode([row.image or b"" for row in rows]))
    except Exception:
        middle = len(rows) // 2
        return decode_batch(rows[:middle], options) + decode_batch(rows[middle:], options)


def file_of(row: EncodedPhoto, pixels: Pixels | None, *, format: str | None = None) -> bytes:
    """File of a row, given what `decode_row` made of it; one that a neural codec made says so in its XMP.

    Args:
        pixels: None where `is_whole` says that none are needed.

    Raises:
        PhotoError: the format cannot be written, or not with the photo's metadata.
        CorruptStreamError: the source file cannot be made of the stream.
        ArchiveDamagedError: what is made of it is not the source file.
    """
    if pixels is None:
        if row.outcome is Outcome.ENCODED:
            return _reconstructed(row)
        assert row.image is not None
        return row.image
    metadata = PhotoMetadata(**{name: getattr(row, name) for name in METADATA_COLUMNS})
    if row.codec and row.model:
        metadata = replace(metadata, xmp=marked(row.xmp, codec=row.codec, model=row.model))
    format = format or row.format or "PNG"
    # In another container than the source's it comes as displayed: who asks for one wants pixels, and not all readers turn.
    orientation = row.orientation if format == row.format else None
    try:
        return write_photo(
            pixels, format=format, mode=row.mode or "RGB", metadata=metadata, orientation=orientation,
            lossless=format == row.format and row.codec == "jxl" and is_lossless(row.image or b""),
        )  # fmt: skip
    except PhotoError as error:
        raise type(error)(error.message, key=row.key) from error


@lru_cache(maxsize=4)
def decoder(codec: str, model: str | None, options: CodecOptions = DEFAULT_OPTIONS) -> Codec:
    """A decoder, made once a process.

    Raises:
        UnknownModelError: the codec or its weights are not installed.
    """
    return decoder_for(codec, model, options)


def _reconstructed(row: EncodedPhoto) -> bytes:
    """The source file of a row that is transcoded."""
    try:
        data = to_jpeg(row.image or b"")
    except PhotoError as error:
        raise CorruptStreamError(f"the {row.codec} stream cannot be decoded: {error.message}", key=row.key) from error
    _check_sha256(row, data)
    return data


def _check_sha256(row: EncodedPhoto, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != row.source_sha256:
        raise ArchiveDamagedError("the stored file is not the one that was read (SHA-256)", key=row.key)


def _is_consistent(row: EncodedPhoto) -> bool:
    try:
        check_container(row)
    except StreamError:
        return False
    return True


def _decode_alone(row: EncodedPhoto, options: CodecOptions) -> Pixels | PhotoarkError:
    try:
        pixels = decode_row(row, options)
        assert pixels is not None
        return pixels
    except PhotoarkError as error:
        return error
    except Exception as error:
        return PhotoarkError(f"it could not be decoded: {type(error).__name__}: {error}", key=row.key)
