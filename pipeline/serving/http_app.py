"""The HTTP interface of an archive.

    GET /photos?prefix=&after=&limit=    keys, page by page
    GET, HEAD /photos/KEY?format=        the restored file
    GET /healthz, /readyz                the process answers; the archive is open and its codec loaded

No request opens a path: keys are looked up. Who may ask is not its business; a proxy in front says so.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.archive.log import Log
from pipeline.archive.reader import find
from pipeline.codecs.registry import DEFAULT_OPTIONS, CodecOptions
from pipeline.decode.restore import file_of, is_whole
from pipeline.errors import ArchiveDamagedError, PhotoarkError, SettingError, redacted
from pipeline.pixels.formats.writer import WRITABLE_FORMATS
from pipeline.records import EncodedPhoto, Outcome
from pipeline.serving.answers import (
    Problem,
    entity_tag,
    failure_of,
    headers_of,
    is_match,
    kept_otherwise,
    media_type,
    problem,
    problem_of,
    reason_of,
)
from pipeline.serving.catalogue import ServedArchive
from pipeline.serving.decoding import Decoding
from pipeline.storage.base import Storage
from pipeline.storage.names import printable

log = logging.getLogger(__name__)
MAX_KEY_CHARACTERS = 4096
"""No store has longer names."""
MAX_LIMIT = 1000
_PIECE_BYTES = 1 << 18

Key = Annotated[str, Path(max_length=MAX_KEY_CHARACTERS)]
Part = Annotated[str, Query(max_length=MAX_KEY_CHARACTERS)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Format = Annotated[str | None, Query(max_length=8)]


class Entry(BaseModel):
    """A photo in a list."""

    key: str
    outcome: str
    codec: str | None
    width: int | None
    height: int | None
    source_bytes: int | None
    reason: str | None


class Page(BaseModel):
    """Some photos, by their keys."""

    photos: list[Entry]
    next: str | None
    """What to give as `after` for the following page; null on the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How much is taken on at once."""

    max_requests: int = 64
    """For photos and lists; more are sent away with 503."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which the server may be called; empty: any. A web page anywhere can bring a browser to call the loopback by the
    page's own name, and read what it answers."""

    def __post_init__(self) -> None:
        if self.max_requests < 1:
            raise SettingError(f"max_requests {self.max_requests} must be positive")


DEFAULT_SERVING = ServingOptions()


class PhotoServer:
    """An archive and a codec, for `http_app`."""

    def __init__(self, archive: str, options: CodecOptions = DEFAULT_OPTIONS) -> None:
        """Open the archive and begin to load what decodes it.

        Raises:
            ArchiveError: there is none, or it cannot be opened.
        """
        storage = Storage(archive)
        self.archive = ServedArchive(storage, Log(storage))
        self.options = options
        self.decoding = Decoding(options, self._samples())

    def look_up(self, key: str, format: str | None) -> tuple[EncodedPhoto, str]:
        """The row of `key`, and the tag of its file in `format`."""
        row = find(self.archive, key)
        return row, entity_tag(row, format, self.options)

    async def file_of(self, row: EncodedPhoto, format: str | None) -> bytes:
        """The file of a row that did not fail."""
        if row.image is None:
            raise ArchiveDamagedError("the row holds neither a bitstream nor a file", key=row.key)
        if row.outcome is Outcome.KEPT:
            return row.image
        if is_whole(row, format):
            return await run_in_threadpool(file_of, row, None)
        return await asyncio.wrap_future(self.decoding.submit(row, format))

    def _samples(self) -> list[EncodedPhoto]:
        try:
            return self.archive.samples()
        except ArchiveDamagedError as error:  # the other photos are there
            log.error("%s", printable(str(error)))
            return []


def http_app(server: PhotoServer, serving: ServingOptions = DEFAULT_SERVING) -> FastAPI:
    """The application; it ends `server` when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(server.decoding.close)

    register_url_convertor("key", _KeyConvertor())
    # Its pages of documentation would load programs from elsewhere.
    app = FastAPI(title="photoark", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(_Guard, serving=serving)
    app.add_exception_handler(PhotoarkError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_exception)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", response_model=None)
    async def readyz() -> dict[str, str] | Response:
        if server.decoding.is_ready:
            return {"status": "ready"}
        return problem(503, "not-ready", "the codec is not loaded yet, or cannot be").response()

    @app.get("/photos")
    def photos(prefix: Part = "", after: Part = "", limit: Limit = 100) -> Page:
        rows = server.archive.page(prefix=prefix, after=after, limit=limit + 1)
        more = len(rows) > limit
        return Page(photos=[_entry(row) for row in rows[:limit]], next=rows[limit - 1].key if more else None)

    @app.head("/photos/{key:key}", response_class=Response, include_in_schema=False)
    @app.get("/photos/{key:key}", response_class=Response)
    async def photo(request: Request, key: Key, format: Format = None) -> Response:
        format = format.upper() if format else None
        if format and format not in WRITABLE_FORMATS:
            return problem(400, "bad-request", f"format: one of {', '.join(sorted(WRITABLE_FORMATS))}").response()
        row, tag = await run_in_threadpool(server.look_up, key, format)
        if row.outcome is Outcome.FAILED:
            return failure_of(row).response()
        if said := kept_otherwise(row, format):
            return said.response()
        headers = headers_of(row, tag, format)
        if is_match(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            response = Response(headers=headers, media_type=media_type(row, format))
            del response.headers["content-length"]  # only decoding would tell
            return response
        return Response(await server.file_of(row, format), headers=headers, media_type=media_type(row, format))

    return app


class _KeyConvertor(Convertor[str]):
    """As Starlette's `path`, which ends at a line's end: names of files need not."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Guard:
    """Bounds what is taken on at once, sending answers to slow clients included, and answers what nobody else did."""

    def __init__(self, app: ASGIApp, *, serving: ServingOptions) -> None:
        self._app = app
        self._serving = serving
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Whether it is alive and ready a server has to say even when it is busy.
        weight = int(scope["path"].startswith("/photos"))
        refusal = None
        if self._serving.allowed_hosts and _host(scope) not in self._serving.allowed_hosts:
            refusal = problem(421, "misdirected-request", "the server is not called so; --allow-host lets it be")
        elif self._num_requests + weight > self._serving.max_requests:
            refusal = problem(503, "busy", "the server has as many requests as it takes on at once; ask again a little later")
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            # In one piece an answer would be the server's as soon as it is made, and pile up there for slow clients.
            body = message.get("body", b"")
            last = max(0, len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES
            for start in range(0, last, _PIECE_BYTES):
                await send({**message, "body": body[start : start + _PIECE_BYTES], "more_body": True})
            if last:
                message = {**message, "body": body[last:]}
            await send(message)

        self._num_requests += weight
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            for line in redacted("".join(traceback.format_exception(error))).splitlines():
                log.error("%s", printable(line))
            if has_begun:
                raise RuntimeError("an answer broke off") from None
            await problem_of(PhotoarkError("unforeseen"), None).response()(scope, receive, send)
        finally:
            self._num_requests -= weight


def _host(scope: Scope) -> str | None:
    try:
        return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname
    except ValueError:
        return None


def _entry(row: EncodedPhoto) -> Entry:
    return Entry(
        key=row.key,
        outcome=row.outcome,
        codec=row.codec,
        width=row.width,
        height=row.height,
        source_bytes=row.source_bytes,
        reason=reason_of(row),
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PhotoarkError)
    said = problem_of(error, request.path_params.get("key"))
    if said.status >= 500:
        log.error("%s", printable(str(error)))
    return said.response()


async def _on_bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Not what was sent: it is as long as its sender liked.
    faults: list[dict[str, Any]] = list(error.errors())
    return problem(400, "bad-request", "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)).response()


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    word = "no-such-resource" if error.status_code == 404 else HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    said: Problem = problem(error.status_code, word, error.detail)
    response = said.response()
    response.headers.update(error.headers or {})
    return response
