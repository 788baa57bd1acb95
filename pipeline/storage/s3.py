"""Objects of S3, proven on the way in and on the way out.

boto3 alone: pyarrow's client gives up after a second, knows no timeout on Linux, fails for good where a refusal is longer than
the range that was asked for, and does not say why.

One GET gives the bytes, the size, the tag and the time of one version of an object, where ranged requests could mix two. What
arrives is held against its size and, where the tag is the object's MD5, against that; what was sent, against the tag that comes
back. Both are tried again when they differ, when the store asks for patience and when a connection stalls or breaks.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import PhotoarkError, SettingError, StorageError

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 8
"""Of one request, with growing pauses between them: about half a minute."""
TIMEOUT_S = 20.0
"""Without a byte."""
_FIRST_ATTEMPTS, _FIRST_TIMEOUT_S = 2, 3.0
"""Of connecting to a store that has not answered yet, where somebody waits (`give_up_early`)."""
_MAX_TRANSFERS = 4
_MD5 = re.compile(r"[0-9a-f]{32}")


def get(bucket: str, key: str) -> tuple[bytes, datetime, str]:
    """Bytes, time of last change and tag of one version of an object.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: its bytes came through broken each time.
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    seen: set[bytes] = set()
    for i in range(_MAX_TRANSFERS):
        data, answer = _transfer(bucket, key)
        digest, tag = hashlib.md5(data).digest(), answer["ETag"].strip('"')
        # A tag need not be an MD5. Bytes that come twice the same are those that the store holds.
        if digest.hex() == tag or not _may_be_md5(answer) or digest in seen:
            return data, answer["LastModified"], tag
        seen.add(digest)
        _tell_retry(f"s3://{bucket}/{key}", i + 1, f"MD5 is not {tag}")
    raise StorageError(f"s3://{bucket}/{key} came through broken {_MAX_TRANSFERS} times: its MD5 is not {tag}")


class RangedReader(io.RawIOBase):
    """An object for random access: each read is one ranged request, and all are of one version."""

    def __init__(self, bucket: str, key: str) -> None:
        """Ask for size and tag.

        Raises:
            FileNotFoundError: there is no such object.
            Exception: of botocore, where the store refuses or cannot be reached.
        """
        super().__init__()
        self._bucket, self._key, self._at = bucket, key, 0
        # Not HEAD, whose refusals have no body that would say why; of an empty object there is no range.
        found = [item for item in list_objects(bucket, key) if item[0] == key]
        if not found:
            raise FileNotFoundError(key)
        _, self._size, _, self._tag = found[0]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        part = f"bytes={self._at}-{end - 1}"
        try:
            data, _ = _transfer(self._bucket, self._key, Range=part, IfMatch=f'"{self._tag}"')
        except Exception as error:  # pyarrow, which asks for this, knows nothing of botocore
            message = " ".join(str(error).split())
            raise StorageError(f"s3://{self._bucket}/{self._key} cannot be read: {message}{hint(message)}") from error
        self._at += len(data)
        return data


def list_objects(bucket: str, prefix: str) -> Iterator[tuple[str, int, datetime, str]]:
    """Key, size, time of last change and tag of every object whose key begins with `prefix`.

    Raises:
        FileNotFoundError: there is no such bucket, or no such object.
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    from botocore.exceptions import ClientError

    found = not prefix
    try:
        for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                found = True
                yield item["Key"], item["Size"], item["LastModified"], item["ETag"].strip('"')
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchBucket", "404"):
            raise FileNotFoundError(bucket) from error
        raise
    if not found:
        raise FileNotFoundError(prefix)


def holds_any(bucket: str, prefix: str) -> bool:
    """Whether the key of any object begins with `prefix`.

    Raises:
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    with contextlib.suppress(FileNotFoundError):
        return any(True for _ in list_objects(bucket, prefix))
    return False


def exists(bucket: str, key: str) -> bool:
    """Whether there is an object of this key or a folder; of the bucket itself where the key is empty.

    Raises:
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    from botocore.exceptions import ClientError

    # Not HEAD, whose refusals have no body that would say why.
    try:
        answers = [
            _client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", [])
            for prefix in ((key, f"{key}/") if key else ("",))
        ]
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchBucket", "404"):
            return False
        raise
    return not key or any(found["Key"] == key or found["Key"].startswith(f"{key}/") for (found,) in filter(None, answers))


def now(bucket: str) -> datetime:
    """What the store's clock says, to the second.

    Raises:
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    answer = _client().list_objects_v2(Bucket=bucket, MaxKeys=1)
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])


def put(bucket: str, key: str, data: bytes, *, replace: bool = True) -> None:
    """Store an object whole.

    Args:
        replace: False leaves an object of this key as it is.

    Raises:
        FileExistsError: there is an object of this key, and it is not to be replaced.
        StorageError: what the store then has is not what was sent.
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    from botocore.exceptions import ClientError

    digest = hashlib.md5(data).digest()
    condition = {} if replace else {"IfNoneMatch": "*"}
    for _ in range(_MAX_TRANSFERS):
        try:
            answer = _client().put_object(
                Bucket=bucket, Key=key, Body=data, ContentMD5=base64.b64encode(digest).decode(), **condition
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "PreconditionFailed":
                if get(bucket, key)[0] == data:  # ours: the answer to an earlier request was lost
                    return
                raise FileExistsError(key) from error
            if code != "NotImplemented" or not condition:
                raise
            if exists(bucket, key):
                raise FileExistsError(key) from error
            condition = {}  # the store knows no conditions
            continue
        condition = {}
        if answer["ETag"].strip('"') == digest.hex() or get(bucket, key)[0] == data:
            return
    raise StorageError(f"s3://{bucket}/{key}: what the store holds is not what was sent to it, {_MAX_TRANSFERS} times")


def delete(bucket: str, key: str) -> None:
    """Delete an object; one that is not there is no error.

    Raises:
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    _client().delete_object(Bucket=bucket, Key=key)


def give_up_early() -> None:
    """Fail within seconds, from now on and in this process, where the store has not answered a single request yet.

    For a command that somebody waits for: the address is probably wrong. Workers, which begin in the middle of a job, keep the
    patience that a busy or restarting store needs.
    """
    _contact.is_awaited = not _contact.was_made


def make_contact(bucket: str) -> None:
    """Send a first request, if `give_up_early` was called and the store has not answered yet; what it answers does not matter.

    Raises:
        Exception: of botocore, where the store cannot be reached.
    """
    from botocore.exceptions import ClientError

    if _contact.is_awaited:
        with contextlib.suppress(ClientError):
            _client().list_objects_v2(Bucket=bucket, MaxKeys=1)


@dataclass(slots=True)
class _Contact:
    """What this process knows of the store."""

    was_made: bool = False
    """Whether it has answered."""
    is_awaited: bool = False
    """Whether it has not, and connecting to it is tried for a short time only."""


_contact = _Contact()


def credentials() -> dict[str, str]:
    """Access key, secret key, session token, region and endpoint, as boto3's chain has them now, under delta-rs's names.

    Temporary ones are renewed where the chain can.

    Raises:
        SettingError: the environment or the files below ~/.aws are wrong.
        StorageError: the credentials that they name cannot be fetched.
    """
    with _configuring():
        _client()  # settings that are wrong for it are wrong for delta-rs, whose message is less clear, or a panic
        found = _session(_environment()).get_credentials()
        frozen = found.get_frozen_credentials() if found else None
    values = {
        "AWS_ACCESS_KEY_ID": frozen.access_key if frozen else None,
        "AWS_SECRET_ACCESS_KEY": frozen.secret_key if frozen else None,
        "AWS_SESSION_TOKEN": frozen.token if frozen else None,
        "AWS_REGION": _session(_environment()).region_name,
        "AWS_ENDPOINT_URL": _endpoint(),
    }
    return {name: value for name, value in values.items() if value}


def hint(message: str) -> str:
    """What to do about an error of the store, where its message names a known cause; empty where not."""
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, message, re.IGNORECASE):
            return f"; {advice}, then try again"
    return ""


_ADVICE = {
    "ExpiredToken|TokenRefreshRequired|expired": "the credentials have expired: renew them",
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken": "the credentials are wrong: look at AWS_* and ~/.aws",
    "unable to locate credentials": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "NoSuchBucket": "check the bucket's name, or make the bucket",
    "AccessDenied": "allow it to this user in the bucket's policy, or use other credentials",
    "Could not connect to the endpoint|Connect timeout on endpoint|Failed to connect to proxy|Connection refused|dns error"
    "|failed to lookup address|Name or service not known": (
        "the store cannot be reached: check the network and AWS_ENDPOINT_URL"
    ),
    "SSL validation failed": "the connection is not trusted: check https:// in AWS_ENDPOINT_URL, and AWS_CA_BUNDLE",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SlowDown|Please reduce your request rate": "the store asks for fewer requests: wait a while",
    "No space left on device|os error 28|StorageFull": "make room",
}


def _transfer(bucket: str, key: str, **options: str) -> tuple[bytes, dict[str, Any]]:
    """Body and answer of a GET; bodies that break off are asked for again."""
    from botocore.exceptions import ClientError, FlexibleChecksumError, HTTPClientError, IncompleteReadError

    fault: Exception | None = None
    for i in range(MAX_ATTEMPTS):
        time.sleep(0.1 * i)
        try:
            answer = _client().get_object(Bucket=bucket, Key=key, **options)
            return answer["Body"].read(), answer
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise FileNotFoundError(key) from error
            raise
        except (FlexibleChecksumError, HTTPClientError, IncompleteReadError) as error:
            fault = error
            _tell_retry(f"s3://{bucket}/{key}", i + 1, str(error))
    raise StorageError(f"s3://{bucket}/{key} broke off {MAX_ATTEMPTS} times: {fault}")


def _may_be_md5(answer: dict[str, Any]) -> bool:
    encrypted = "aws:kms" in answer.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in answer
    return not encrypted and _MD5.fullmatch(answer["ETag"].strip('"')) is not None


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def _endpoint() -> str | None:
    name = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    url = os.environ.get(name)
    if url and not _is_endpoint(url):
        raise SettingError(f"{name} {url!r} is no URL of a store: give http://HOST:PORT or https://HOST")
    return url or None


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # of an address or a port that is none
        return False
    is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    return is_whole and url.isprintable() and not re.search(r"[\s?#]", url)


@contextlib.contextmanager
def _configuring() -> Iterator[None]:
    """Errors of boto3 while it looks for settings and credentials, as ours."""
    from botocore import exceptions

    fetching = (
        exceptions.ClientError, exceptions.HTTPClientError, exceptions.ConnectionError, exceptions.CredentialRetrievalError,
        exceptions.MetadataRetrievalError, exceptions.SSOError, exceptions.TokenRetrievalError,
    )  # fmt: skip
    try:
        yield
    except PhotoarkError:
        raise
    except fetching as error:
        message = " ".join(str(error).split())
        raise StorageError(f"credentials for S3 cannot be fetched: {message}{hint(message)}") from error
    except Exception as error:
        message = " ".join(str(error).split()).rstrip(".")
        raise SettingError(f"S3 is not set up: {message}; correct AWS_* in the environment, or ~/.aws") from error


def _client() -> Any:
    return _client_of(_environment(), _FIRST_TIMEOUT_S if _contact.is_awaited else TIMEOUT_S)


@lru_cache(maxsize=4)
def _session(environment: tuple[tuple[str, str], ...]) -> Any:
    """One for each state of the environment: it caches temporary credentials, and asks for new ones before they expire."""
    import boto3

    return boto3.Session()


@lru_cache(maxsize=4)
def _client_of(environment: tuple[tuple[str, str], ...], connect_timeout_s: float) -> Any:
    from botocore.config import Config

    settings = Config(
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=connect_timeout_s,
        read_timeout=TIMEOUT_S,
        max_pool_connections=32,
        # MD5 serves, and every store knows it; trailing checksums some do not.
        request_checksum_calculation="when_required",
    )
    with _configuring():
        client = _session(environment).client("s3", endpoint_url=_endpoint(), config=settings)
    client.meta.events.register_last("needs-retry.s3", _see_answer)
    return client


def _see_answer(
    response: tuple[Any, dict[str, Any]] | None, attempts: int, caught_exception: Exception | None, request_dict: Any, **_: Any
) -> None:
    """Called by botocore after each request that it sent, before it tries again."""
    from botocore.exceptions import ConnectionError

    if response is not None:
        _contact.was_made, _contact.is_awaited = True, False
    if caught_exception is not None:
        reason = f"{type(caught_exception).__name__}: {caught_exception}"
    elif response is not None and (response[0].status_code >= 500 or response[0].status_code == 429):
        reason = f"{response[0].status_code} {response[1].get('Error', {}).get('Code', '')}".strip()
    else:
        return
    _tell_retry(request_dict["url"].partition("?")[0], attempts, reason)
    if _contact.is_awaited and attempts >= _FIRST_ATTEMPTS and isinstance(caught_exception, ConnectionError):
        raise caught_exception  # or botocore would go on for half a minute


def _tell_retry(url: str, attempt: int, reason: str) -> None:
    log.info("a request to the store failed", extra={"url": url, "attempt": attempt, "reason": reason})
