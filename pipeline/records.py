"""The row that travels, from the manifest to the archive: one a photo, never dropped.

Photo (where it lies) -> EncodedPhoto (what became of it) -> one row of the archive
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa

from pipeline.errors import ArchiveDamagedError, redacted


class Outcome(StrEnum):
    """What became of a photo."""

    ENCODED = "encoded"
    """A codec's bitstream stands for it."""
    KEPT = "kept"
    """No codec can represent it, or none was asked to: its own bytes are stored."""
    FAILED = "failed"
    """It could not be read, or nothing may stand for it; the row holds the reason and no image."""


class KeepOriginal(StrEnum):
    """When a source file's own bytes are stored."""

    NEVER = "never"
    """What no codec may stand for becomes a failed row."""
    KEPT = "kept"
    """What no codec may stand for is stored as its bytes."""
    ALWAYS = "always"
    """And beside each bitstream its source file, unless the bitstream gives that file back."""


class SkipReason(StrEnum):
    """Why the listing of a source leaves an entry out."""

    NOT_INCLUDED = "not_included"
    """No pattern of `--include` matches it."""
    EXCLUDED = "excluded"
    """A pattern of `--exclude` matches it."""
    EXCLUDED_BY_DEFAULT = "excluded_by_default"
    """A thumbnail, a bin or a desktop's notes (`sources.selection.DEFAULT_EXCLUDES`)."""
    NO_PHOTO = "no_photo"
    """It is no photo, and only photos were asked for."""
    ARCHIVE = "archive"
    """A shard or the log of an archive that lies in the source."""
    LISTED_ALREADY = "listed_already"
    """A link to a folder whose files are listed under another name, or that holds the source itself."""
    SPECIAL_FILE = "special_file"
    """A pipe, a socket or a device."""
    FOLDER_MARKER = "folder_marker"
    """An empty object of an object store that stands for a folder."""
    UNREADABLE_FOLDER = "unreadable_folder"
    """A folder that cannot be listed: photos may be missing."""

    @property
    def is_harmless(self) -> bool:
        """Whether nothing that should be stored can be missing for it."""
        return self is not SkipReason.UNREADABLE_FOLDER

    def __str__(self) -> str:
        """In words, as they stand behind a count of entries."""
        return _SKIP_WORDS[self]


_SKIP_WORDS = {
    SkipReason.NOT_INCLUDED: "not matched by --include",
    SkipReason.EXCLUDED: "excluded by --exclude",
    SkipReason.EXCLUDED_BY_DEFAULT: "excluded by default (thumbnails, bins, desktop files; --no-default-excludes takes them)",
    SkipReason.NO_PHOTO: "no photos (--photos-only)",
    SkipReason.ARCHIVE: "files of an archive inside the source",
    SkipReason.LISTED_ALREADY: "links to folders that are listed already",
    SkipReason.SPECIAL_FILE: "pipes, sockets or devices",
    SkipReason.FOLDER_MARKER: "empty objects that mark folders",
    SkipReason.UNREADABLE_FOLDER: "folders that cannot be read; photos in them are missing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Entries of a source that are left out for one reason."""

    reason: SkipReason
    num_entries: int
    """Files; for links and unreadable folders, the folders themselves."""
    first: tuple[str, ...]
    """Names of the first ones, with details where there are any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One source file, as listed."""

    key: str
    """Path relative to the source root, `/` between parts; `storage.names` says how names that are not UTF-8 are spelled."""
    uri: str
    """Where its bytes are."""
    size_bytes: int
    modified_at: datetime | None = None
    """Time of last change, with time zone."""
    etag: str | None = None
    """The object store's version tag, where there is one."""
    companion_of: str | None = None
    """Key of the photo beside which this file lies and to which it belongs: the film of a Live Photo, a sidecar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoMetadata:
    """What travels beside the pixels, verbatim."""

    exif: bytes | None = None
    """TIFF-structured EXIF block as the file holds it, without the `Exif\\0\\0` prefix."""
    icc: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM datasets, without what a container wraps them in."""
    xmp_extended: bytes | None = None
    """What a JPEG's `xmp` refers to by its MD5, since one segment could not hold all: RDF, put together."""
    resolution: str | None = None
    """For print, of JPEG, PNG and TIFF: `600x600/inch`, with `cm` or `m` for the unit, or a ratio such as `4x3`."""


METADATA_COLUMNS = tuple(field.name for field in fields(PhotoMetadata))
"""Columns of the archive that hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoHeader:
    """What a look at the header tells, before any pixel is decoded."""

    format: str
    """Pillow's name of the container: JPEG, PNG, WEBP, TIFF, HEIF, AVIF, GIF, ..."""
    width: int
    """Pixels, as displayed (orientation applied)."""
    height: int
    mode: str
    """Pillow's mode of the source: RGB, L, CMYK, I;16, RGBA, P, ..."""
    orientation: int = 1
    """EXIF orientation of the source, 1 to 8."""
    metadata: PhotoMetadata = field(default_factory=PhotoMetadata)
    unsupported: str | None = None
    """Why no pixel codec may take it (16-bit, CMYK, animation, alpha, ...): it is kept as its bytes. None when one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPhoto:
    """One row of the archive. Field names and order are those of `ARCHIVE_SCHEMA`."""

    key: str
    image: bytes | None
    """The bitstream, the file itself (`original`), or None when it failed."""
    codec: str | None
    """Name in the codec registry."""
    model: str | None
    """Fingerprint (16 hex digits) of the weights that decode it; None for codecs without weights."""
    outcome: Outcome
    reason: str | None = None
    """Why it was kept or failed, in words for a person."""
    same_as: str | None = None
    """Key of the row whose stream and metadata stand for this photo too, because its bytes are the same; there is no image
    here then. Within a job also the row's own key: the bytes are those that the archive's row was made of."""
    format: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    orientation: int | None = None
    source_uri: str
    source_bytes: int
    source_sha256: str | None = None
    source_etag: str | None = None
    modified_at: datetime | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    xmp_extended: bytes | None = None
    resolution: str | None = None
    bpp: float | None = None
    """8 * len(image) / (width * height)."""
    psnr: float | None = None
    """Decibels, on the decoded stream; None when quality was not measured."""
    ms_ssim: float | None = None
    ssimulacra2: float | None = None
    """This and the following: only where the gate asked for it."""
    perceptual: float | None = None
    lpips: float | None = None
    dists: float | None = None
    encoded_at: datetime | None = None
    encoder: str | None = None
    """Version of the program that wrote the row."""
    recipe: str | None = None
    """How it was encoded (`pipeline.encode.recipe`); None for failures and rows of earlier versions."""
    original: bytes | None = None
    """The source file beside its bitstream (`KeepOriginal.ALWAYS`)."""


def failed_row(
    key: str,
    reason: str,
    *,
    source_uri: str = "",
    source_bytes: int = 0,
    source_etag: str | None = None,
    modified_at: datetime | None = None,
    encoded_at: datetime | None = None,
) -> EncodedPhoto:
    """Return the row of a photo that could not be stored, with what is known of its source."""
    return EncodedPhoto(
        key=key, image=None, codec=None, model=None, outcome=Outcome.FAILED, reason=reason, source_uri=source_uri,
        source_bytes=source_bytes, source_etag=source_etag, modified_at=modified_at, encoded_at=encoded_at,
    )  # fmt: skip


ARCHIVE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("codec", pa.string()),
        pa.field("model", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("same_as", pa.string()),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("orientation", pa.int32()),
        pa.field("source_uri", pa.string()),
        pa.field("source_bytes", pa.int64()),
        pa.field("source_sha256", pa.string()),
        pa.field("source_etag", pa.string()),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("exif", pa.binary()),
        pa.field("icc", pa.binary()),
        pa.field("xmp", pa.binary()),
        pa.field("iptc", pa.binary()),
        pa.field("xmp_extended", pa.binary()),
        pa.field("resolution", pa.string()),
        pa.field("bpp", pa.float32()),
        pa.field("psnr", pa.float32()),
        pa.field("ms_ssim", pa.float32()),
        pa.field("ssimulacra2", pa.float32()),
        pa.field("perceptual", pa.float32()),
        pa.field("lpips", pa.float32()),
        pa.field("dists", pa.float32()),
        pa.field("encoded_at", pa.timestamp("us", tz="UTC")),
        pa.field("encoder", pa.string()),
        pa.field("recipe", pa.string()),
        pa.field("original", pa.binary()),
    ]
)
"""Columns of the archive. `image` is laid out as the Hugging Face `Image` feature: bytes and path."""

STREAM_COLUMNS = tuple(name for name in ARCHIVE_SCHEMA.names if name != "original")
"""What decoding a photo needs: all but the source files, which lie beside the bitstreams and are much larger."""

BLOB_COLUMNS = ("image", "exif", "icc", "xmp", "iptc", "xmp_extended", "original")
"""What a row that is the same as another does not hold itself."""

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_at", pa.timestamp("us", tz="UTC")),
        pa.field("etag", pa.string()),
        pa.field("companion_of", pa.string()),
    ]
)
"""Columns of the manifest: one row a source file."""


def photos_to_table(photos: Iterable[Photo]) -> pa.Table:
    """Manifest table of `photos`."""
    return pa.Table.from_pylist([_as_dict(p) for p in photos], schema=MANIFEST_SCHEMA)


def photos_from_table(table: pa.Table) -> list[Photo]:
    """Inverse of `photos_to_table`; extra columns are ignored."""
    return [Photo(**row) for row in table.select(MANIFEST_SCHEMA.names).to_pylist()]


def encoded_to_table(rows: Iterable[EncodedPhoto]) -> pa.Table:
    """Archive table (`ARCHIVE_SCHEMA`) of `rows`."""
    dicts = []
    for row in rows:
        record = _as_dict(row)
        record["image"] = None if row.image is None else {"bytes": row.image, "path": row.key}
        record["reason"] = None if row.reason is None else redacted(row.reason)
        dicts.append(record)
    return pa.Table.from_pylist(dicts, schema=ARCHIVE_SCHEMA)


def encoded_from_table(table: pa.Table) -> list[EncodedPhoto]:
    """Inverse of `encoded_to_table`; columns that were not read come back as None.

    Raises:
        ArchiveDamagedError: these are no rows of an archive.
    """
    try:
        return [_encoded_from(record) for record in _records(table)]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ArchiveDamagedError(f"a row is none that was written here: {error}") from error


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """As `table.to_pylist()`, which imports pandas where times have a zone: that takes longer than reading a small archive."""
    times = [i for i, field in enumerate(table.schema) if pa.types.is_timestamp(field.type) and field.type.tz == "UTC"]
    for i in times:
        field = table.schema.field(i)
        table = table.set_column(i, field.name, table.column(i).cast(pa.timestamp(field.type.unit)))
    records: list[dict[str, Any]] = table.to_pylist()
    for name in (table.schema.field(i).name for i in times):
        for record in records:
            if record[name] is not None:
                record[name] = record[name].replace(tzinfo=UTC)
    return records


def _encoded_from(record: dict[str, Any]) -> EncodedPhoto:
    image = record.pop("image", None)
    record["image"] = None if image is None else image["bytes"]
    record["outcome"] = Outcome(record["outcome"])
    if record.get("source_bytes", 0) is None:
        raise ValueError(f"{record['key']!r} has no source_bytes")
    for name in ("codec", "model", "source_uri", "source_bytes"):
        record.setdefault(name, None)
    return EncodedPhoto(**record)


def _as_dict(record: Photo | EncodedPhoto) -> dict[str, object]:
    # dataclasses.asdict deep-copies every value, megabytes of image bytes included.
    return {name: getattr(record, name) for name in record.__slots__}
