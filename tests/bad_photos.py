"""Files that people have in their folders and that no pixel codec may take, or nothing can read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_bad_photos(folder: Path, good: bytes) -> dict[str, tuple[str, str]]:
    """Write one of each below `folder`; returns name -> (expected outcome, part of the reason)."""
    small = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    files = {
        "empty.jpg": (b"", "failed", "empty"),
        "text.jpg": (b"This is no photo.\n", "failed", "not an image"),
        "truncated.jpg": (good[: len(good) // 2], "failed", "truncated"),
        "sixteen bit.png": (_png16(), "kept", "8 bits"),
        "cmyk.jpg": (_saved(Image.fromarray(small).convert("CMYK"), "JPEG"), "kept", "CMYK"),
        "animated.gif": (_animation(small), "kept", "animated"),
        "huge.png": (one_colour_png(20_000, 20_000), "kept", "megapixels"),
        "alpha.png": (_saved(Image.fromarray(small).convert("RGBA"), "PNG"), "kept", "transparency"),
        "été à Besançon.jpg": (good, "encoded", ""),
        "日本/写真 1.jpg": (good, "encoded", ""),
    }
    for name, (data, _, _) in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {name: (outcome, reason) for name, (_, outcome, reason) in files.items()}


def one_colour_png(width: int, height: int) -> bytes:
    """A PNG of one grey, written row by row: a few hundred kilobytes that would decode to width * height pixels."""
    compressor = zlib.compressobj(9)
    row = b"\0" + b"\x80" * width
    data = b"".join(compressor.compress(row) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png16() -> bytes:
    """Sixteen bits a channel in RGB, which Pillow would reduce to eight without a word."""
    rows = b"".join(b"\0" + np.arange(30, dtype=">u2").tobytes() for _ in range(10))
    header = struct.pack(">IIBBBBB", 10, 10, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _animation(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "GIF", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    return buffer.getvalue()


def _saved(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()
