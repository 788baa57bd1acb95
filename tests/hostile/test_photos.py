"""Photos from anywhere: whatever a file holds, it becomes pixels or a typed error, in bounded time and memory."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.errors import PhotoError, UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.formats import probe as bare
from pipeline.pixels.formats import reader
from pipeline.pixels.formats.claims import read_claim
from pipeline.pixels.formats.probe import PixelLimits
from pipeline.pixels.sandbox import client as sandbox
from tests.bad_photos import one_colour_png
from tests.hostile.mutation import mutated

ROOT = Path(__file__).parents[2]


def decoders(of: int | None = None) -> list[psutil.Process]:
    """Decoder processes of this process, or of another."""
    return [child for child in psutil.Process(of).children() if "pipeline.pixels.sandbox.decoder_process" in child.cmdline()]


def read(data: bytes, limits: PixelLimits = bare.DEFAULT_LIMITS) -> np.ndarray:
    return sandbox.read_pixels(data, sandbox.probe(data, limits=limits), limits=limits)


def test_another_process_reads_what_this_one_would(photo_files: dict[str, bytes], samples: dict[str, bytes]) -> None:
    for name, data in (photo_files | samples).items():
        header = bare.probe(data)
        assert sandbox.probe(data) == header, name
        if not header.unsupported:
            assert np.array_equal(sandbox.read_pixels(data, header), reader.read_pixels(data, header)), name
    assert len(decoders()) == 1


def test_five_thousand_mutated_files_are_pixels_or_typed_errors(samples: dict[str, bytes]) -> None:
    rng = random.Random(20_261)
    ends: Counter[str] = Counter()
    files = list(samples.values())
    for i in range(5000):
        data = mutated(files[i % len(files)], rng)
        try:
            header = sandbox.probe(data)
            if header.unsupported:
                ends["kept"] += 1
                continue
            pixels = sandbox.read_pixels(data, header)
            assert pixels.shape == (header.height, header.width, 3)
            ends["read"] += 1
        except UnreadablePhotoError:
            ends["failed"] += 1
    # The mutations are worth something: many files are hurt, many still get as far as the decoder.
    assert sum(ends.values()) == 5000
    assert all(ends[end] > 400 for end in ("kept", "read", "failed")), ends


def test_every_truncation_is_an_error_or_whole(samples: dict[str, bytes]) -> None:
    for name, data in samples.items():
        header = bare.probe(data)
        for length in range(0, len(data), max(1, len(data) // 25)):
            try:
                assert read(data[:length]).shape == (header.height, header.width, 3), name
            except PhotoError:
                continue


def test_mutated_jpegs_are_transcoded_bit_for_bit_or_refused_and_so_are_mutated_streams(samples: dict[str, bytes]) -> None:
    rng, ends = random.Random(7), Counter[str]()
    stream = sandbox.to_jpeg_xl(samples["jpeg"], num_pixels=48 * 40)
    for _ in range(400):
        file = mutated(samples["jpeg"], rng)
        try:
            ends["same" if sandbox.to_jpeg(sandbox.to_jpeg_xl(file, num_pixels=48 * 40)) == file else "other"] += 1
        except UnreadablePhotoError:
            ends["refused"] += 1
        try:
            sandbox.to_jpeg(mutated(stream, rng))
            ends["made"] += 1
        except UnreadablePhotoError:
            ends["damaged"] += 1
    assert ends["same"] > 20 and ends["refused"] > 20 and ends["damaged"] > 20, ends


def test_polyglots_are_the_photo_that_they_begin_with(samples: dict[str, bytes]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.py", "import os")
    tails = (archive.getvalue(), b"<script>alert(1)</script>", samples["png"], b"%PDF-1.7\n", b"\x7fELF" * 100)
    for name, data in samples.items():
        header = bare.probe(data)
        for tail in tails:
            try:
                found = sandbox.probe(data + tail)
                assert (found.width, found.height) == (header.width, header.height)
                if not found.unsupported:
                    assert np.array_equal(sandbox.read_pixels(data + tail, found), reader.read_pixels(data, header)), name
            except UnreadablePhotoError:
                assert name in ("jxl", "lossless jxl", "heic", "avif")  # whose files end where they say
    for text in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"):
        try:
            assert sandbox.probe(text).unsupported
        except UnreadablePhotoError:
            continue


def _widened(data: bytes, width: int, height: int) -> bytes:
    """The same file, whose header claims another size."""
    claim = read_claim(data)
    assert claim is not None and claim.format == "WEBP"
    out = bytearray(data)
    out[26:30] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(out)


def test_bombs_are_told_by_their_headers(samples: dict[str, bytes]) -> None:
    bombs = {
        "png": one_colour_png(20_000, 20_000),
        "webp": _widened(samples["webp"], 16383, 16383),
        # Size header of a bare codestream: neither side small, 2^30 high and as wide.
        "jxl": b"\xff\x0a" + (0b0 | 0b11 << 1 | ((1 << 30) - 1) << 3 | 1 << 33).to_bytes(8, "little") + bytes(40),
    }
    for name, data in bombs.items():
        started_s = time.perf_counter()
        header = sandbox.probe(data)
        assert "megapixels, more than the limit" in (header.unsupported or ""), name
        with pytest.raises(UnsupportedPhotoError):
            sandbox.read_pixels(data, header)
        assert time.perf_counter() - started_s < 2
    (decoder,) = decoders()
    assert decoder.memory_info().rss < 200 << 20


def test_memory_is_bounded_by_what_the_header_claims() -> None:
    limits = PixelLimits(memory_bytes=64 << 20, memory_per_pixel_bytes=1)
    with pytest.raises(UnreadablePhotoError, match="MiB"):
        read(one_colour_png(9_000, 9_000), limits)
    assert read(one_colour_png(9_000, 100), limits).shape == (100, 9_000, 3)


@pytest.mark.parametrize("where", ["", "-OPEN"])
@pytest.mark.usefixtures("faulty_decoder")
def test_a_decoder_that_crashes_costs_its_file_alone(where: str, samples: dict[str, bytes]) -> None:
    before = read(samples["jpeg"])
    (first,) = decoders()
    with pytest.raises(UnreadablePhotoError, match=r"crashes the decoder.* SIGSEGV"):
        read(f"FAULTY-CRASH{where} 1".encode())
    assert not first.is_running() or first.status() == psutil.STATUS_ZOMBIE
    assert np.array_equal(read(samples["jpeg"]), before)


@pytest.mark.parametrize("where", ["", "-OPEN"])
@pytest.mark.usefixtures("faulty_decoder")
def test_time_and_memory_end_for_one_file_alone(where: str, samples: dict[str, bytes]) -> None:
    before = read(samples["jpeg"])
    started_s = time.perf_counter()
    with pytest.raises(UnreadablePhotoError, match="more than 1 s"):
        read(f"FAULTY-HANG{where} 1".encode(), PixelLimits(time_s=1))
    assert time.perf_counter() - started_s < 10
    with pytest.raises(UnreadablePhotoError, match="more than 200 MiB"):
        read(f"FAULTY-GROW{where} 1".encode(), PixelLimits(memory_bytes=200 << 20))
    assert np.array_equal(read(samples["jpeg"]), before)


@pytest.mark.usefixtures("faulty_decoder")
def test_a_decoder_that_was_taken_over_gets_nowhere(tmp_path: Path, samples: dict[str, bytes]) -> None:
    command = [sys.executable, "-c", "from pipeline.pixels.sandbox.confinement import confine; print(confine())"]
    version = int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    if version < 6:
        pytest.skip(f"the kernel's Landlock is of version {version}: from 6 on it keeps from all of these")
    secret = tmp_path / "secret"
    secret.write_text("the key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        escape = f"FAULTY-ESCAPE {secret} {server.getsockname()[1]} ".encode()
        # The same process decodes real photos before and after.
        files = {name: data for name, data in samples.items() if not sandbox.probe(data).unsupported}
        assert len(files) > 8
        before = {name: read(data).tobytes() for name, data in files.items()}
        with pytest.raises(UnreadablePhotoError, match=r"it can \[\]$"):
            read(escape)
    assert len(decoders()) == 1
    assert {name: read(data).tobytes() for name, data in files.items()} == before
    assert (secret.read_text(), sorted(path.name for path in tmp_path.iterdir())) == ("the key", ["faulty", "secret"])


def test_decoders_end_with_whoever_started_them(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo_files["bridge.jpg"])
    code = f"""
import sys, time
from pipeline.pixels.sandbox import client as sandbox
sandbox.read_pixels(open({str(tmp_path / "photo.jpg")!r}, "rb").read())
print("ready", flush=True)
time.sleep(100)
"""
    for how in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            (decoder,) = decoders(owner.pid)
            owner.send_signal(how)
            decoder.wait(20)
            assert not decoder.is_running()


def test_decoders_hold_no_credentials(monkeypatch: pytest.MonkeyPatch, samples: dict[str, bytes]) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    sandbox.end_processes()
    read(samples["png"])
    (decoder,) = decoders()
    assert not [name for name in decoder.environ() if "AWS" in name or "TOKEN" in name or "SECRET" in name]


def test_threads_have_decoders_of_their_own(samples: dict[str, bytes]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    sandbox.end_processes()
    wanted: Callable[[bytes], np.ndarray] = read
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(wanted, [samples["png"], samples["jpeg"]] * 20))
    assert all(np.array_equal(a, b) for a, b in zip(found[::2], found[2::2], strict=False))
    assert 1 <= len(decoders()) <= 2


def test_a_forked_process_starts_its_own(samples: dict[str, bytes]) -> None:
    expected = read(samples["png"])
    child = os.fork()
    if child == 0:  # the parent's socket must stay untouched
        os._exit(0 if np.array_equal(read(samples["png"]), expected) and len(decoders()) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(read(samples["png"]), expected)


def test_claims_are_those_of_the_library() -> None:
    lossless = {"lossless": True}
    kinds: list[tuple[str, dict[str, bool]]] = [("JXL", {}), ("JXL", lossless), ("WEBP", {}), ("WEBP", lossless), ("PNG", {})]
    for width, height in ((8, 8), (64, 64), (63, 65), (320, 240), (192, 108), (300, 17), (100, 200)):
        for format, options in kinds:
            buffer = io.BytesIO()
            Image.new("RGB", (width, height)).save(buffer, format, icc_profile=None, **options)
            claim = read_claim(buffer.getvalue())
            assert claim is not None
            assert (claim.format, claim.width, claim.height, claim.is_animated) == (format, width, height, False)


@pytest.mark.usefixtures("faulty_decoder")
def test_faulty_photos_are_failed_rows_among_encoded_ones(tmp_path: Path, samples: dict[str, bytes]) -> None:
    from pipeline.codecs.points import CodecAt
    from pipeline.encode.read import read_block
    from pipeline.encode.settings import EncodeSettings
    from pipeline.encode.worker import EncodeWorker
    from pipeline.records import Outcome, encoded_from_table, photos_to_table
    from pipeline.sources.folder import list_photos

    source = tmp_path / "photos"
    source.mkdir()
    faults = {"crash.jpg": b"FAULTY-CRASH 1", "grow.jpg": b"FAULTY-GROW 1", "hang.jpg": b"FAULTY-HANG 1"}
    for name, data in (faults | {"a.jpg": samples["jpeg"], "z.png": samples["png"]}).items():
        (source / name).write_bytes(data)
    limits = PixelLimits(time_s=3, memory_bytes=300 << 20)
    worker = EncodeWorker(EncodeSettings(ladder=(CodecAt("webp"),), limits=limits))
    table = worker(read_block(photos_to_table(list_photos(str(source)))))
    rows = {row.key: row for row in encoded_from_table(table.drop_columns(_further(table.column_names)))}
    assert {key for key, row in rows.items() if row.outcome is Outcome.ENCODED} == {"a.jpg", "z.png"}
    for key, reason in (("crash.jpg", "crashes the decoder"), ("grow.jpg", "MiB"), ("hang.jpg", "more than 3 s")):
        assert rows[key].outcome is Outcome.FAILED
        assert reason in (rows[key].reason or "")
        assert rows[key].source_sha256


def _further(columns: list[str]) -> list[str]:
    from pipeline.records import ARCHIVE_SCHEMA

    return [name for name in columns if name not in ARCHIVE_SCHEMA.names]
