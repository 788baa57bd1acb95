"""What a person types for a place: a local path, a `file:` URL, or a URL of a store; and what delta-rs makes of it."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from pipeline.errors import SettingError, redacted

# A user, with or without a password (which may have slashes, where a host may have a port), or a signature.
_WITH_CREDENTIALS = re.compile(
    r"^\w+://([^/]*@|[^/@:]*:(?!\d+(/|$))|.*[?&](x-amz-\w|sig=|signature=|token=|password=|secret=))", re.IGNORECASE
)
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# delta-rs decodes paths as URLs, twice, and normalises them.
_ODD_TO_DELTA = re.compile(r"%[0-9a-fA-F]{2}|[\x00-\x1f\x7f]")
_ODD_TO_DELTA_LOCALLY = re.compile(r"\\|[\ud800-\udfff]")
_ODD_TO_DELTA_ON_S3 = re.compile(r"^/|//|/$|(?<![^/])\.\.?(?![^/])")


def scheme_of(text: str) -> str:
    """Return the scheme of a URL, in small letters; empty for a local path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def normalised(url: str | os.PathLike[str]) -> str:
    """Return what names the same place in one way only: an absolute local path, or a URL without a `/` at its end.

    A local path is taken as it is spelled; a `file:` URL is percent-decoded (RFC 8089). One `/` at the end of an S3 prefix
    separates it from what lies under it; with more of them, the prefix itself ends in `/`, and they stay.

    Raises:
        SettingError: the path is empty, or the URL is malformed or holds credentials, which would then stand in every row.
    """
    text = os.fspath(url)
    if not text or "\0" in text:
        raise SettingError("a path must not be empty or hold a NUL")
    if _WITH_CREDENTIALS.search(text):
        raise SettingError(
            f"credentials in a URL ({redacted(text)}) end up in rows and logs: put them into the environment or ~/.aws"
        )
    scheme = scheme_of(text)
    if scheme == "s3":
        bucket_and_key = text.split("://", 1)[1]
        if bucket_and_key.startswith("/") or not bucket_and_key:
            raise SettingError(f"{text} names no bucket: give s3://BUCKET/PREFIX")
        bucket = bucket_and_key.partition("/")[0]
        if not (_BUCKET.fullmatch(bucket) or bucket.startswith("arn:")):
            raise SettingError(f"{bucket!r} cannot be the name of a bucket: give s3://BUCKET/PREFIX")
        return "s3://" + (bucket_and_key if text.endswith("//") else bucket_and_key.removesuffix("/"))
    if scheme not in ("", "file", "local"):
        return text.rstrip("/")
    # fsspec's `local:` URLs are not percent-decoded.
    path = _path_of_file_url(text) if scheme == "file" else text[len("local://") :] if scheme else text
    # Where a link comes before `..`, the kernel goes to the parent of what it leads to.
    return os.path.realpath(path) if ".." in path.split("/") else os.path.abspath(path)


def url_for_delta(url: str) -> str:
    """Return what delta-rs has to be given for the place that `normalised` calls `url`.

    Raises:
        SettingError: delta-rs would take it for another place.
    """
    scheme = scheme_of(url)
    if scheme not in ("", "s3"):
        return url
    bucket, slash, key = url.removeprefix("s3://").partition("/") if scheme else ("", "", "")
    path = key if scheme else os.path.realpath(url)  # delta-rs goes where links lead, too
    odd = _ODD_TO_DELTA.search(path) or (_ODD_TO_DELTA_ON_S3 if scheme else _ODD_TO_DELTA_LOCALLY).search(path)
    if odd:
        raise SettingError(f"an archive cannot be at {url!r}: Delta Lake cannot use a path with {odd[0]!r}; choose another")
    return f"s3://{bucket}{slash}{quote(key)}" if scheme else path


def _path_of_file_url(url: str) -> str:
    host, slash, path = url.split("://", 1)[1].partition("/")
    if not slash or host.lower() not in ("", "localhost"):
        raise SettingError(f"{url} names another host: a file URL is file:// and the absolute path, percent-encoded")
    if re.search(r"[?#]|%(?![0-9a-f]{2})|%00|%2f", path, re.IGNORECASE):
        raise SettingError(f"{url} is no file URL: write ? as %3F, # as %23 and % as %25, or give the path without file://")
    return slash + os.fsdecode(unquote_to_bytes(os.fsencode(path)))
