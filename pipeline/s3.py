"""Whole objects of S3, proven on the way in and on the way out.

One GET gives the bytes, the size, the tag and the time of one version of an object, where ranged requests could mix two. What
arrives is held against its size and, where the tag is the object's MD5, against that; what was sent, against the tag that comes
back. Both are tried again when they differ, when the store asks for patience and when a connection stalls or breaks.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from datetime import datetime
from functools import lru_cache
from typing import Any

from pipeline.errors import StorageError

MAX_ATTEMPTS = 8
"""Of one request, with growing pauses between them: about half a minute."""
TIMEOUT_S = 20.0
"""Without a byte."""
_MAX_TRANSFERS = 4
_MD5 = re.compile(r"[0-9a-f]{32}")


def get(bucket: str, key: str) -> tuple[bytes, datetime, str]:
    """Bytes, time of last change and tag of one version of an object.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: its bytes came through broken each time.
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    from botocore.exceptions import ClientError, FlexibleChecksumError, HTTPClientError, IncompleteReadError

    fault: object = None
    seen: set[bytes] = set()
    for i in range(_MAX_TRANSFERS):
        time.sleep(0.2 * i)
        try:
            answer = _client().get_object(Bucket=bucket, Key=key)
            data = answer["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                raise FileNotFoundError(key) from error
            raise
        except (FlexibleChecksumError, HTTPClientError, IncompleteReadError) as error:
            fault = error
            continue
        digest, tag = hashlib.md5(data).digest(), answer["ETag"].strip('"')
        # A tag need not be an MD5. Bytes that come twice the same are those that the store holds.
        if digest.hex() == tag or not _may_be_md5(answer) or digest in seen:
            return data, answer["LastModified"], tag
        seen.add(digest)
        fault = f"its MD5 is {digest.hex()}, and the store says {tag}"
    raise StorageError(f"s3://{bucket}/{key} came through broken {_MAX_TRANSFERS} times: {fault}")


def put(bucket: str, key: str, data: bytes) -> None:
    """Store an object whole.

    Raises:
        StorageError: what the store then has is not what was sent.
        Exception: of botocore, where the store refuses or cannot be reached.
    """
    digest = hashlib.md5(data).digest()
    for _ in range(_MAX_TRANSFERS):
        answer = _client().put_object(Bucket=bucket, Key=key, Body=data, ContentMD5=base64.b64encode(digest).decode())
        if answer["ETag"].strip('"') == digest.hex() or get(bucket, key)[0] == data:
            return
    raise StorageError(f"s3://{bucket}/{key}: what the store holds is not what was sent to it, {_MAX_TRANSFERS} times")


def credentials() -> dict[str, str]:
    """Access key, secret key, session token, region and endpoint, as boto3's chain has them now: named as pyarrow does.

    Temporary ones are renewed where the chain can.
    """
    found = _session(_environment()).get_credentials()
    frozen = found.get_frozen_credentials() if found else None
    values = {
        "access_key": frozen.access_key if frozen else None,
        "secret_key": frozen.secret_key if frozen else None,
        "session_token": frozen.token if frozen else None,
        "region": _session(_environment()).region_name,
        "endpoint_override": _endpoint(),
    }
    return {name: value for name, value in values.items() if value}


def hint(message: str) -> str:
    """What to do about an error of the store, where its message names a known cause; empty where not."""
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, message, re.IGNORECASE):
            return f"; {advice}, then run the same command again"
    return ""


_ADVICE = {
    "ExpiredToken|TokenRefreshRequired|expired": "the credentials have expired: renew them",
    "InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken": "the credentials are wrong: look at AWS_* and ~/.aws",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SlowDown|Please reduce your request rate": "the store asks for fewer requests: wait a while",
    "No space left on device|os error 28|StorageFull": "make room",
}


def _may_be_md5(answer: dict[str, Any]) -> bool:
    encrypted = "aws:kms" in answer.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in answer
    return not encrypted and _MD5.fullmatch(answer["ETag"].strip('"')) is not None


def _environment() -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _client() -> Any:
    return _client_of(_environment())


@lru_cache(maxsize=4)
def _session(environment: tuple[tuple[str, str], ...]) -> Any:
    """One for each state of the environment: it caches temporary credentials, and asks for new ones before they expire."""
    import boto3

    return boto3.Session()


@lru_cache(maxsize=4)
def _client_of(environment: tuple[tuple[str, str], ...]) -> Any:
    from botocore.config import Config

    settings = Config(
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        max_pool_connections=32,
        # MD5 serves, and every store knows it; trailing checksums some do not.
        request_checksum_calculation="when_required",
    )
    return _session(environment).client("s3", endpoint_url=_endpoint(), config=settings)
