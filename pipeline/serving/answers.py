"""What HTTP says of a photo, and of what went wrong.

Sources: RFC 9110 (entity tags), RFC 6266 and 8187 (Content-Disposition), RFC 9457 (problem details).
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import metadata
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from pipeline.codecs.registry import CodecOptions
from pipeline.errors import (
    ArchiveDamagedError,
    ArchiveError,
    KeyNotFoundError,
    PhotoarkError,
    PhotoError,
    StorageError,
    StreamError,
    UnknownModelError,
)
from pipeline.pixels.formats.suffixes import named_for
from pipeline.pixels.metadata.xmp import ENHANCED
from pipeline.records import EncodedPhoto, Outcome

RETRY_AFTER_S = 2
_MEDIA_TYPES = {
    "JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "TIFF": "image/tiff",
    "AVIF": "image/avif", "HEIF": "image/heif", "GIF": "image/gif", "BMP": "image/bmp", "JXL": "image/jxl",
}  # fmt: skip
_PROGRAMS = ("photoark", "torch", "pillow", "pillow-heif")
"""What the bytes of a restored file depend on."""


class Problem(BaseModel):
    """Problem details, as application/problem+json."""

    type: str
    """urn:photoark:problem: and a word that says which."""
    title: str
    status: int
    detail: str
    key: str | None = None
    """Of the photo."""

    def response(self) -> JSONResponse:
        """It as an answer."""
        headers = {"Retry-After": str(RETRY_AFTER_S)} if self.status == 503 else {}
        return JSONResponse(
            self.model_dump(exclude_none=True), self.status, headers | {"Cache-Control": "no-store"}, "application/problem+json"
        )


def problem(status: int, word: str, detail: str, *, key: str | None = None) -> Problem:
    """A problem whose title is its word, spelt out."""
    title = word.replace("-", " ").capitalize()
    return Problem(type=f"urn:photoark:problem:{word}", title=title, status=status, detail=detail, key=key)


def problem_of(error: PhotoarkError, key: str | None) -> Problem:
    """What a client is told of an error. Where the server is at fault, that is which fault; paths and URLs stay in its log."""
    if isinstance(error, KeyNotFoundError):
        return problem(404, "unknown-key", "the archive holds no such photo", key=key)
    if isinstance(error, PhotoError):
        return problem(422, "photo-cannot-be-restored", error.message, key=key)
    if isinstance(error, UnknownModelError):
        return problem(500, "codec-not-installed", "the server lacks the codec or the weights that decode this photo", key=key)
    is_store = isinstance(error, StorageError) or isinstance(error.__cause__, StorageError)
    if isinstance(error, ArchiveError | StorageError) and (is_store or not isinstance(error, ArchiveDamagedError)):
        return problem(503, "store-unavailable", "the archive cannot be read at the moment", key=key)
    if isinstance(error, StreamError | ArchiveDamagedError):
        return problem(500, "photo-damaged", "what the archive holds of this photo is damaged", key=key)
    return problem(500, "internal", "the server failed; its log says why", key=key)


def failure_of(row: EncodedPhoto) -> Problem:
    """Of a photo that failed when it was encoded."""
    detail = f"there is nothing to restore, it failed when it was encoded: {reason_of(row)}"
    return problem(422, "photo-failed", detail, key=row.key)


def kept_otherwise(row: EncodedPhoto, format: str | None) -> Problem | None:
    """What a client is told that asks for a file that was kept as its bytes in another format than its own."""
    if row.outcome is not Outcome.KEPT or format is None or media_type(row, format) == _MEDIA_TYPES.get(format):
        return None
    what = f"a {row.format} file" if row.format else "a file of no known format"
    return problem(
        422,
        "kept-as-its-bytes",
        f"{what}, whose own bytes are stored ({reason_of(row)}): ask for it without format",
        key=row.key,
    )


def reason_of(row: EncodedPhoto) -> str | None:
    """Why a row was kept or failed, without the place that the photo came from."""
    if row.reason is None or not row.source_uri:
        return row.reason
    return row.reason.replace(row.source_uri, row.key)


def headers_of(row: EncodedPhoto, tag: str, format: str | None) -> dict[str, str]:
    """Headers of a restored file in `format`: what it is, and what may be done with it."""
    said = {
        "ETag": tag,
        # Kept, if at all, by who asked; asked about each time, which costs no decoding.
        "Cache-Control": "private, no-cache",
        "Content-Disposition": content_disposition(row.key, None if row.outcome is Outcome.KEPT else format),
        "X-Content-Type-Options": "nosniff",
        "Photoark-Outcome": str(row.outcome),
        # An archive of a stranger's can say anything there.
        "Photoark-Codec": quote(row.codec or "", safe=""),
    }
    if row.outcome is Outcome.ENCODED and row.model:
        said |= {"Photoark-Model": quote(row.model, safe=""), "Photoark-Digital-Source-Type": ENHANCED}
    return said


def media_type(row: EncodedPhoto, format: str | None) -> str:
    """Of the file; what is not known to be a picture is bytes, so that no browser runs it."""
    made = row.format if row.outcome is Outcome.KEPT else format or row.format or "PNG"
    return _MEDIA_TYPES.get(made or "", "application/octet-stream")


def content_disposition(key: str, format: str | None) -> str:
    """The name that `photoark restore` gives the file, also to who reads ASCII alone."""
    name = named_for(PurePosixPath(key).name or "photo", format)
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", name)
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def entity_tag(row: EncodedPhoto, format: str | None, options: CodecOptions) -> str:
    """Strong tag of the file: the same as long as stream, metadata, weights, settings and programs are.

    On one kind of machine the same file follows from these, however many photos are decoded together. Machines of different
    kinds may differ in the last bit of a neural codec's pixels, and share a tag.
    """
    digest = hashlib.sha256()
    for part in (row.image, row.exif, row.icc, row.xmp, row.iptc, row.xmp_extended):
        digest.update(b"-" if part is None else b"%d:" % len(part) + part)
    digest.update(
        repr((row.codec, row.model, row.outcome, row.format, row.mode, row.orientation, row.resolution, format)).encode()
    )
    digest.update(repr((options.device, options.runtime, _versions())).encode())
    return f'"{digest.hexdigest()[:32]}"'


def is_match(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has the file with this tag."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in re.findall(r'"[^"]*"', if_none_match)


@cache
def _versions() -> tuple[str, ...]:
    return tuple(metadata.version(name) for name in _PROGRAMS)
