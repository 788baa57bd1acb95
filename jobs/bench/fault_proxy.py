"""A server between S3 clients and an S3 server, which does to their requests what networks and busy stores do. Seeded.

client ──► FaultProxy ──► S3 server        reset, stall, slow_down, denied: the server never sees the request
       ◄── truncate, flip ◄──              drop: the server has done what was asked, and the client never hears of it
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_ERRORS = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (403, "ExpiredToken", "The provided token has expired."),
    "skewed": (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
}
FAULTS = ("slow_down", "expired", "skewed", "reset", "stall", "truncate", "flip", "flip_upload", "drop")


@dataclass(slots=True, kw_only=True)
class FaultPlan:
    """Which faults, how often."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """Fault -> share of the requests that it may hit; those of bodies hit only requests that have one."""
    seed: int = 0
    stall_s: float = 30.0
    """How long a stalled request gets no byte; then its connection is closed."""


class FaultProxy:
    """Runs in threads of this process while the `with` block lasts; `plan` may be exchanged at any time."""

    def __init__(self, upstream: str, plan: FaultPlan) -> None:
        """Listen on a free port of this machine.

        Args:
            upstream: http://host:port of an S3 server.
        """
        self.plan = plan
        self.injected: Counter[str] = Counter()
        self.num_requests = 0
        self._random = random.Random(plan.seed)
        self._lock = threading.Lock()
        self.upstream = urlsplit(upstream).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """What clients take for the S3 server."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def choose(self, *, has_upload: bool) -> str | None:
        """Fault of the next request."""
        with self._lock:
            self.num_requests += 1
            at = self._random.random()
            for fault, rate in self.plan.rates.items():
                if at < rate:
                    return None if fault == "flip_upload" and not has_upload else fault
                at -= rate
        return None

    def count(self, fault: str) -> None:
        """Note that a fault happened."""
        with self._lock:
            self.injected[fault] += 1

    def flipped(self, data: bytes) -> bytes:
        """`data` with one bit changed."""
        changed = bytearray(data)
        with self._lock:
            at = self._random.randrange(len(changed))
        changed[at] ^= 1 << (at % 8)
        return bytes(changed)


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Header and body go out in two pieces, which would wait for each other's acknowledgement.
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            body = self._body()
            # delta-rs signs what it sends to the log, so that a true S3 refuses it changed; the servers of tests do not look.
            fault = proxy.choose(has_upload=self.command == "PUT" and bool(body) and "_delta_log" not in self.path)
            if fault in ("reset", "stall"):
                proxy.count(fault)
                if fault == "stall":
                    time.sleep(proxy.plan.stall_s)
                self._reset()
                return
            if fault in _ERRORS:
                proxy.count(fault)
                self._answer_error(*_ERRORS[fault])
                return
            if fault == "flip_upload":
                proxy.count(fault)
                body = proxy.flipped(body)
            status, headers, data = self._forward(body)
            if fault == "drop":
                proxy.count(fault)
                self._reset()
                return
            is_object = self.command == "GET" and status in (200, 206) and "list-type" not in self.path and bool(data)
            if fault == "flip" and is_object:
                proxy.count(fault)
                data = proxy.flipped(data)
            self._answer(status, headers, data, cut=fault == "truncate" and is_object)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(proxy.upstream, timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "expect", "connection")}
            kept["Content-Length"] = str(len(body))
            connection.request(self.command, self.path, body=body, headers=kept)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            return answer.status, answer.getheaders(), data

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "connection", "transfer-encoding") or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD" and status != 204:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if cut:
                proxy.count("truncate")
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif self.command != "HEAD":
                self.wfile.write(data)

        def _answer_error(self, status: int, code: str, message: str) -> None:
            data = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Date", formatdate(usegmt=True))]
            self._answer(status, headers, b"" if self.command == "HEAD" else data, cut=False)

        def _reset(self) -> None:
            # Closing with what is unsent thrown away makes the kernel send RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionError):
                self.close_connection = True

    return Handler
