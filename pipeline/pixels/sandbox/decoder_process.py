"""The process that `sandbox` decodes in: reads requests from a socket until the other end closes it.

    request   12 bytes: length of the JSON (uint32), length of the file (uint64); the JSON; the file
    reply     the same: JSON, and what goes with it (metadata blocks; the other file, of a JPEG as JPEG XL and back)

Pixels do not travel: a request for them brings a piece of shared memory, which is filled. Neither side unpickles anything.
Nothing heavy is imported here: a decoder should start in a fraction of a second.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import warnings
from dataclasses import asdict, fields
from typing import Any

from PIL import Image

from pipeline.errors import UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.formats import jpeg_xl
from pipeline.pixels.formats.probe import PixelLimits, probe
from pipeline.pixels.formats.reader import open_upright
from pipeline.pixels.sandbox.confinement import confine
from pipeline.records import PhotoHeader, PhotoMetadata

LENGTHS = struct.Struct("<IQ")
"""Of the JSON, of what follows it."""
READY = b"!"
_MAX_MESSAGE = 500


def main() -> None:
    """Serve the socket whose file descriptor is the first argument."""
    warnings.simplefilter("ignore")
    Image.init()  # every plugin: none is to be looked for once memory is short
    connection = socket.socket(fileno=int(sys.argv[1]))
    # What takes this process over has no core to dump, no file to write, and few to open; where the kernel can, none.
    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(kind, (most, most))
    base_bytes = _address_space_bytes()
    confine()
    connection.sendall(READY)
    while True:
        prefix, descriptors, _, _ = socket.recv_fds(connection, LENGTHS.size, 1)
        if not prefix:
            return
        sizes = LENGTHS.unpack(prefix + _receive(connection, LENGTHS.size - len(prefix)))
        request = json.loads(_receive(connection, sizes[0]))
        data = _receive(connection, sizes[1])
        # For when nobody is left to stop it: the other side's own clock is the shorter one.
        signal.setitimer(signal.ITIMER_REAL, request["time_s"] + 10)
        resource.setrlimit(resource.RLIMIT_AS, (base_bytes + len(data) + request["memory_bytes"], resource.RLIM_INFINITY))
        reply, extra = _answer(request, data, descriptors)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        signal.setitimer(signal.ITIMER_REAL, 0)
        for descriptor in descriptors:
            os.close(descriptor)
        text = json.dumps(reply).encode()
        connection.sendall(LENGTHS.pack(len(text), len(extra)) + text + extra)


def _answer(request: dict[str, Any], data: bytes, descriptors: list[int]) -> tuple[dict[str, Any], bytes]:
    try:
        if request["do"] == "probe":
            return _probed(probe(data, limits=PixelLimits(**request["limits"]), is_stream=request["is_stream"]))
        if request["do"] == "to_jpeg_xl":
            return {}, jpeg_xl.to_jpeg_xl(data)
        if request["do"] == "to_jpeg":
            return {}, jpeg_xl.to_jpeg(data)
        width, height = request["width"], request["height"]
        _fill(descriptors[0], data, width, height, request["orientation"])
    except UnsupportedPhotoError as error:
        return {"error": "unsupported", "message": error.message[:_MAX_MESSAGE]}, b""
    except UnreadablePhotoError as error:
        return {"error": "unreadable", "message": error.message[:_MAX_MESSAGE]}, b""
    except MemoryError:
        return {"error": "out of memory"}, b""
    except Exception as error:
        message = f"the image cannot be decoded: {type(error).__name__}: {error}"
        return {"error": "unreadable", "message": message[:_MAX_MESSAGE]}, b""
    return {}, b""


def _probed(header: PhotoHeader) -> tuple[dict[str, Any], bytes]:
    found = {field.name: getattr(header.metadata, field.name) for field in fields(PhotoMetadata)}
    blocks = {name: block for name, block in found.items() if isinstance(block, bytes)}
    told = asdict(header) | {"metadata": {name: len(block) for name, block in blocks.items()}}
    told["resolution"] = header.metadata.resolution
    return told, b"".join(blocks.values())


def _fill(descriptor: int, data: bytes, width: int, height: int, orientation: int) -> None:
    image = open_upright(data, orientation)
    if image.size != (width, height):
        raise UnreadablePhotoError(
            f"the header promises {width} x {height} pixels, the file holds {image.width} x {image.height}"
        )
    with mmap.mmap(descriptor, 3 * width * height) as shared:
        shared[:] = image.tobytes()


def _receive(connection: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        got = connection.recv_into(view[at:])
        if not got:
            sys.exit()
        at += got
    return bytes(data)


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main()
