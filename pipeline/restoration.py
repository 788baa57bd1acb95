"""One photo back, without Ray: look it up, decode it, make a file of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from pipeline.archive.commit import Archive
from pipeline.archive.lookup import find
from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.registry import DEFAULT_OPTIONS, CodecOptions, decoder_for
from pipeline.container_check import check_container
from pipeline.errors import ArchiveDamagedError, PhotoError, StreamError
from pipeline.pixels.writer import write_photo
from pipeline.pixels.xmp import marked
from pipeline.records import EncodedPhoto, Outcome, PhotoMetadata


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
    format: str | None = None,
    original: bool = False,
    options: CodecOptions = DEFAULT_OPTIONS,
) -> RestoredPhoto:
    """Restore one photo of an archive.

    Args:
        archive: the archive, or its URL.
        key: as `photoark ls` prints it.
        format: Pillow's name of another container, such as PNG for no further loss.
        original: the source file's own bytes instead of what was decoded.

    Raises:
        KeyNotFoundError: there is no such photo.
        PhotoError: it failed when it was encoded, its format cannot be written, or its own bytes were not stored.
        StreamError: its bitstream is damaged, or its codec is not installed.
        ArchiveDamagedError: its shard is.
    """
    row = find(Archive.open(archive) if isinstance(archive, str) else archive, key, with_original=original)
    data = original_of(row) if original else file_of(row, decode_row(row, options), format=format)
    return RestoredPhoto(key=key, data=data, modified_at=row.modified_at, row=row)


def original_of(row: EncodedPhoto) -> bytes:
    """The source file's own bytes.

    Raises:
        PhotoError: they were not stored, or the row is a failure.
        ArchiveDamagedError: they are not those that were read.
    """
    if row.outcome is Outcome.FAILED:
        raise PhotoError(f"nothing to restore, it failed when it was encoded: {row.reason}", key=row.key)
    data = row.image if row.outcome is Outcome.KEPT else row.original
    if data is None:
        raise PhotoError("its own bytes were not stored; `encode --keep-original always` stores them", key=row.key)
    if hashlib.sha256(data).hexdigest() != row.source_sha256:
        raise ArchiveDamagedError("the stored file is not the one that was read (SHA-256)", key=row.key)
    return data


def decode_row(row: EncodedPhoto, options: CodecOptions = DEFAULT_OPTIONS) -> Pixels | None:
    """Pixels of an encoded row; None where the source's own bytes are stored.

    Raises:
        PhotoError: the row is a failure, with its reason.
        StreamError: the bitstream is damaged, or its codec is not installed.
    """
    if row.outcome is Outcome.FAILED:
        raise PhotoError(f"nothing to restore, it failed when it was encoded: {row.reason}", key=row.key)
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


def file_of(row: EncodedPhoto, pixels: Pixels | None, *, format: str | None = None) -> bytes:
    """File of a row, given what `decode_row` made of it; one that a neural codec made says so in its XMP.

    Raises:
        PhotoError: the format cannot be written, or not with the photo's metadata.
    """
    if pixels is None:
        assert row.image is not None
        return row.image
    metadata = PhotoMetadata(exif=row.exif, icc=row.icc, xmp=row.xmp, iptc=row.iptc, xmp_extended=row.xmp_extended)
    if row.codec and row.model:
        metadata = replace(metadata, xmp=marked(row.xmp, codec=row.codec, model=row.model))
    format = format or row.format or "PNG"
    # In another container than the source's it comes as displayed: who asks for one wants pixels, and not all readers turn.
    orientation = row.orientation if format == row.format else None
    try:
        return write_photo(pixels, format=format, mode=row.mode or "RGB", metadata=metadata, orientation=orientation)
    except PhotoError as error:
        raise type(error)(error.message, key=row.key) from error


@lru_cache(maxsize=4)
def decoder(codec: str, model: str | None, options: CodecOptions = DEFAULT_OPTIONS) -> Codec:
    """A decoder, made once a process.

    Raises:
        UnknownModelError: the codec or its weights are not installed.
    """
    return decoder_for(codec, model, options)
