"""`probe`, `read_pixels`, `to_jpeg_xl` and `to_jpeg` for files that nobody vouches for: in another process, with bounds of time
and memory.

    file -> socket -> decoder process: Pillow, libheif, libavif, libjxl, libwebp -> header (JSON), or shared memory of pixels,
                                                                                    or another file

A file that crashes a decoder, or that takes it too long or too much memory, costs that process and is an
`UnreadablePhotoError`. There are as many processes as threads that decode at once. They start when they are first needed,
get no environment variable that could hold a secret, and end with this process, whose end of the socket then closes.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PhotoarkError, UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.formats.claims import read_claim
from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.sandbox.decoder_process import LENGTHS, READY
from pipeline.records import PhotoHeader, PhotoMetadata

log = logging.getLogger(__name__)
_MAX_TRIES = 2
"""A process that ended may have been ended from outside, such as when the machine had no memory left."""
_START_S = 120
_MAX_REPLY_BYTES = 64 << 20
"""Of a reply beyond the length of the file: metadata may have been compressed in it."""


def probe(data: bytes, *, limits: PixelLimits = DEFAULT_LIMITS, is_stream: bool = False) -> PhotoHeader:
    """See `pipeline.pixels.formats.probe.probe`.

    Raises:
        UnreadablePhotoError: no image, or its header crashes the decoder or takes it too long or too much memory.
        PhotoarkError: no decoder process can be started.
    """
    request = {"do": "probe", "limits": asdict(limits), "is_stream": is_stream}
    told, extra = _ask(request, data, _num_pixels_claimed(data, limits), limits)
    resolution = told.pop("resolution")
    blocks = {}
    for name, length in told.pop("metadata").items():
        blocks[name], extra = extra[:length], extra[length:]
    return PhotoHeader(**told, metadata=PhotoMetadata(**blocks, resolution=resolution))


def read_pixels(data: bytes, header: PhotoHeader | None = None, *, limits: PixelLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """See `pipeline.pixels.formats.reader.read_pixels`.

    Raises:
        UnreadablePhotoError: no image, cut short, or it crashes the decoder or takes it too long or too much memory.
        UnsupportedPhotoError: sound, but not representable as 8-bit RGB, or larger than the limits.
        PhotoarkError: no decoder process can be started.
    """
    header = header or probe(data, limits=limits)
    if header.unsupported:
        raise UnsupportedPhotoError(header.unsupported)
    num_pixels = header.width * header.height
    request = {"do": "read", "width": header.width, "height": header.height, "orientation": header.orientation}
    memory = os.memfd_create("photoark-pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, 3 * num_pixels)
        # A decoder that was taken over could cut it short, and this process would end where it reads on.
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        _ask(request, data, num_pixels, limits, memory)
        pixels = mmap.mmap(memory, 3 * num_pixels, prot=mmap.PROT_READ)
    finally:
        os.close(memory)
    return np.frombuffer(pixels, np.uint8).reshape(header.height, header.width, 3)


def to_jpeg_xl(data: bytes, *, limits: PixelLimits = DEFAULT_LIMITS, num_pixels: int) -> bytes:
    """See `pipeline.pixels.formats.jpeg_xl.to_jpeg_xl`.

    Args:
        num_pixels: of the file, by its header.

    Raises:
        UnreadablePhotoError: it cannot be transcoded, or that crashes the process or takes it too long or too much memory.
        PhotoarkError: no decoder process can be started.
    """
    return _ask({"do": "to_jpeg_xl"}, data, num_pixels, limits)[1]


def to_jpeg(stream: bytes, *, limits: PixelLimits = DEFAULT_LIMITS) -> bytes:
    """See `pipeline.pixels.formats.jpeg_xl.to_jpeg`.

    Raises:
        UnreadablePhotoError: it is damaged, or crashes the process or takes it too long or too much memory.
        PhotoarkError: no decoder process can be started.
    """
    return _ask({"do": "to_jpeg"}, stream, _num_pixels_claimed(stream, limits), limits)[1]


def end_processes() -> None:
    """End the decoder processes that are idle; the next file starts one again."""
    _DECODERS.end()


def _num_pixels_claimed(data: bytes, limits: PixelLimits) -> int:
    claim = read_claim(data)
    return 0 if claim is None else min(claim.width * claim.height, limits.max_pixels)


def _ask(
    request: dict[str, Any], data: bytes, num_pixels: int, limits: PixelLimits, memory: int | None = None
) -> tuple[dict[str, Any], bytes]:
    """What a decoder process replies, its errors raised."""
    time_s = limits.time_s + limits.time_per_megapixel_s * num_pixels / 1e6
    memory_bytes = limits.memory_bytes + limits.memory_per_pixel_bytes * num_pixels
    request = request | {"time_s": time_s, "memory_bytes": memory_bytes}
    end = ""
    for i in range(_MAX_TRIES):
        with _DECODERS.borrowed() as decoder:
            try:
                reply, extra = decoder.ask(request, data, time_s, memory)
            except TimeoutError as error:
                decoder.end()
                raise UnreadablePhotoError(f"decoding it takes more than {time_s:.0f} s, the limit for its size") from error
            except (OSError, ValueError):
                end = decoder.end()
                log.warning("the decoder process ended over a file", extra={"attempt": i + 1, "reason": end})
                continue
            if reply.get("error") == "out of memory":
                decoder.end()  # what is left of its memory is in pieces
                raise UnreadablePhotoError(f"decoding it takes more than {memory_bytes >> 20} MiB, the limit for its size")
        if reply.get("error") == "unreadable":
            raise UnreadablePhotoError(reply["message"])
        if reply.get("error") == "unsupported":
            raise UnsupportedPhotoError(reply["message"])
        return reply, extra
    raise UnreadablePhotoError(f"it crashes the decoder, or takes more than {memory_bytes >> 20} MiB: {_MAX_TRIES} times {end}")


class _Decoder:
    """One process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-m", "pipeline.pixels.sandbox.decoder_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the keyboard is for this process alone
            )
        try:
            self._receive(len(READY), time.monotonic() + _START_S)
        except OSError as error:
            raise PhotoarkError(
                f"no process can be started to decode files in ({self.end()}); "
                "`python -m pipeline.pixels.sandbox.decoder_process 0` shows why"
            ) from error

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    def ask(self, request: dict[str, Any], data: bytes, time_s: float, memory: int | None) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for the reply.

        Raises:
            TimeoutError: it took longer than `time_s`.
            OSError: the process has ended.
            ValueError: it does not keep to the protocol.
        """
        deadline_s = time.monotonic() + time_s
        text = json.dumps(request).encode()
        self._socket.settimeout(time_s)
        socket.send_fds(self._socket, [LENGTHS.pack(len(text), len(data))], [] if memory is None else [memory])
        self._socket.sendall(text)
        self._socket.sendall(data)
        num_text, num_extra = LENGTHS.unpack(self._receive(LENGTHS.size, deadline_s))
        if num_text + num_extra > len(data) + _MAX_REPLY_BYTES:
            raise ValueError("the reply is too long")
        reply = json.loads(self._receive(num_text, deadline_s))
        return reply, self._receive(num_extra, deadline_s)

    def end(self) -> str:
        """End the process; returns how it ended."""
        self._socket.close()
        try:
            # One that is crashing should end by that, so that it can be told.
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _receive(self, count: int, deadline_s: float) -> bytes:
        data = bytearray(count)
        view, at = memoryview(data), 0
        while at < count:
            self._socket.settimeout(max(1e-3, deadline_s - time.monotonic()))
            got = self._socket.recv_into(view[at:])
            if not got:
                raise ConnectionResetError("the decoder process has ended")
            at += got
        return bytes(data)


class _Decoders:
    """The processes that no thread uses at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Decoder] = []

    @contextmanager
    def borrowed(self) -> Iterator[_Decoder]:
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        decoder = decoder or _Decoder()
        try:
            yield decoder
        except UnreadablePhotoError:
            raise
        except BaseException:
            decoder.end()  # an interrupt in the middle of a reply
            raise
        finally:
            if not decoder.has_ended:
                with self._lock:
                    self._idle.append(decoder)

    def forget(self) -> None:
        """In a process that was forked: they are the other one's."""
        self.__init__()  # type: ignore[misc]

    def end(self) -> None:
        while self._idle:
            self._idle.pop().end()


def _environment() -> dict[str, str]:
    """Enough to find the same modules. No credentials, and two heaps for malloc, since each reserves address space."""
    found = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LANG") if name in os.environ}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return found | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}


_DECODERS = _Decoders()
os.register_at_fork(after_in_child=_DECODERS.forget)
atexit.register(_DECODERS.end)
