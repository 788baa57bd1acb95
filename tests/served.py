"""An archive to serve, a real server for it, and answers as they came over the wire."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.codecs.base import Transcoder
from pipeline.codecs.registry import CodecOptions, get_codec
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.reader import read_pixels
from pipeline.records import EncodedPhoto, Outcome

ROOT = Path(__file__).parents[1]
SECRET_PLACE = "s3://bucket-of-originals/inner"
"""Where rows say that their photos came from: for nobody but the archive's owner."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Server:
    """One that listens on this machine."""

    port: int
    process: subprocess.Popen[Any] | None = None

    def ask(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        """The answer to one request, on a connection of its own; `path` goes out as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())  # type: ignore[arg-type]
        finally:
            connection.close()

    def photo(self, key: str, query: str = "", **options: Any) -> Answer:
        """What is said of the photo `key`."""
        return self.ask(f"/photos/{quote(key)}{query}", **options)

    def begin(self, key: str) -> socket.socket:
        """A client that asks for a photo and reads nothing of the answer but its first bytes."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=300)
        client.sendall(f"GET /photos/{quote(key)} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert client.recv(16, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200")
        return client


@contextmanager
def serving(archive: str, *options: str, errors: Path) -> Iterator[Server]:
    """`photoark serve` in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "jobs", "serve", archive, "--port", "0", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with errors.open("w") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(archive), errors.read_text()
        yield Server(int(line.rsplit(":", 1)[1].split("/")[0]), process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(is_so: Callable[[], bool], within_s: float) -> None:
    """Wait.

    Raises:
        TimeoutError: it did not come to be so.
    """
    started_s = time.monotonic()
    while not is_so():
        if time.monotonic() - started_s > within_s:
            raise TimeoutError(f"not so after {within_s} s")
        time.sleep(0.1)


def encoded(key: str, data: bytes, codec: str = "webp", **changes: Any) -> EncodedPhoto:
    """The row of a photo as `photoark encode` makes it."""
    header = probe(data)
    made_by = get_codec(codec)
    fields: dict[str, Any] = {
        "key": key, "image": made_by.encode([read_pixels(data, header)])[0], "codec": codec, "model": made_by.info.model,
        "outcome": Outcome.ENCODED, "source_uri": f"{SECRET_PLACE}/{key}", "source_bytes": len(data), "format": header.format,
        "mode": header.mode, "width": header.width, "height": header.height, "orientation": header.orientation,
        "exif": header.metadata.exif, "icc": header.metadata.icc,
    }  # fmt: skip
    return EncodedPhoto(**(fields | changes))


def kept(key: str, data: bytes, format: str | None = None) -> EncodedPhoto:
    """The row of a file that is kept as it is."""
    return EncodedPhoto(
        key=key, image=data, codec="original", model=None, outcome=Outcome.KEPT, source_uri=f"{SECRET_PLACE}/{key}",
        source_bytes=len(data), format=format,
    )  # fmt: skip


def transcoded(key: str, data: bytes) -> EncodedPhoto:
    """The row of a JPEG file that JPEG XL took whole, as `photoark encode --codec jxl --quality 100` makes it."""
    codec, header = get_codec("jxl", CodecOptions(quality=100)), probe(data)
    assert isinstance(codec, Transcoder)
    stream = codec.transcode(data, num_pixels=header.width * header.height)
    return EncodedPhoto(
        key=key, image=stream, codec="jxl", model=None, outcome=Outcome.ENCODED, source_uri=f"{SECRET_PLACE}/{key}",
        source_bytes=len(data), source_sha256=hashlib.sha256(data).hexdigest(), format="JPEG", mode=header.mode,
        width=header.width, height=header.height,
    )  # fmt: skip
