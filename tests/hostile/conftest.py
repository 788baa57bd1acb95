"""Small files of every format, and a decoder with the faults that real ones are feared for."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pillow_heif
import pillow_jxl  # noqa: F401 (registers itself with Pillow)
import pytest
from PIL import Image

pillow_heif.register_heif_opener()

# Python runs it at the start of every process that finds it: a TIFF-like plugin of Pillow whose decoder does as the file says.
FAULTY_DECODER = """
import ctypes, os, socket
from PIL import Image, ImageFile


class FaultyFile(ImageFile.ImageFile):
    format, format_description = "TIFF", "does as it says"

    def _open(self):
        self._orders = self.fp.read(400).split()
        self._mode, self._size = "RGB", (30, 20)
        if self._orders[0].endswith(b"-OPEN"):
            self._do()

    def load(self):
        self._do()

    def _do(self):
        order = self._orders[0].removeprefix(b"FAULTY-").removesuffix(b"-OPEN")
        if order == b"CRASH":
            ctypes.string_at(0)
        elif order == b"HANG":
            ctypes.CDLL(None).sleep(1000)
        elif order == b"GROW":
            self._held = [bytearray(16 << 20) for _ in range(10_000)]
        elif order == b"ESCAPE":
            path, port = self._orders[1].decode(), int(self._orders[2])
            ways = {
                "read": lambda: open(path).read(),
                "write": lambda: open(path, "a"),
                "make": lambda: open(path + "-new", "w"),
                "remove": lambda: os.remove(path),
                "list": lambda: os.listdir(os.path.dirname(path)),
                "spy": lambda: open(f"/proc/{os.getppid()}/environ").read(),
                "run": lambda: os.posix_spawn("/bin/true", ["true"], {}),
                "call": lambda: socket.create_connection(("127.0.0.1", port), timeout=5),
                "kill": lambda: os.kill(os.getppid(), 0),
            }
            open_to_it = []
            for name, way in ways.items():
                try:
                    way()
                    open_to_it.append(name)
                except PermissionError:
                    pass
            raise ValueError(f"it can {open_to_it}")


Image.register_open("FAULTY", FaultyFile, lambda prefix: prefix.startswith(b"FAULTY"))
"""


@pytest.fixture(scope="session")
def samples(photo_files: dict[str, bytes]) -> dict[str, bytes]:
    """Name -> a file of 48 x 40 pixels of a real photo."""
    photo = Image.open(io.BytesIO(photo_files["bridge.jpg"])).resize((48, 40))
    exif = Image.Exif()
    exif[0x0112], exif[271] = 6, "Maker"
    options: dict[str, tuple[str, dict[str, object]]] = {
        "jpeg": ("JPEG", {"exif": exif}),
        "progressive jpeg": ("JPEG", {"progressive": True}),
        "png": ("PNG", {"exif": exif}),
        "webp": ("WEBP", {}),
        "lossless webp": ("WEBP", {"lossless": True, "exif": exif}),
        "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
        "tiff jpeg": ("TIFF", {"compression": "jpeg"}),
        "heic": ("HEIF", {}),
        "avif": ("AVIF", {"speed": 9}),
        "jxl": ("JXL", {}),
        "lossless jxl": ("JXL", {"lossless": True}),
        "gif": ("GIF", {}),
        "bmp": ("BMP", {}),
        "jpeg 2000": ("JPEG2000", {}),
    }
    files = {}
    for name, (format, options_of_it) in options.items():
        buffer = io.BytesIO()
        photo.save(buffer, format, **options_of_it)
        files[name] = buffer.getvalue()
    return files


@pytest.fixture
def faulty_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Decoder processes started from now on know the faulty format; those that run already are ended."""
    from pipeline.pixels.sandbox import client as sandbox

    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(FAULTY_DECODER)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    sandbox.end_processes()
    yield folder
    sandbox.end_processes()
