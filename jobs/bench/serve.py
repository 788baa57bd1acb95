"""`photoark bench serve`: answers a second and how long one takes, of a real server, beside `restore` of the same photo."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.options import SAMPLE_PHOTOS, Device
from pipeline.errors import PhotoarkError

KEY = "photo.jpg"


def bench_serve(
    codec: Annotated[str, typer.Option(help="Codec of the photo.")] = "ditic-small",
    width: Annotated[int, typer.Option(help="Of the photo.")] = 768,
    height: Annotated[int, typer.Option(help="Of the photo.")] = 512,
    clients: Annotated[
        str, typer.Option(help="How many ask at once, again as soon as they are answered; comma-separated.")
    ] = "1,8",
    requests: Annotated[int, typer.Option(help="Of all clients together, each time.")] = 64,
    device: Device = None,
) -> None:
    """Measure the server; the last line is a JSON object."""
    from jobs.settings import load_settings
    from pipeline.decode.restore import restore

    options = load_settings(device=device).codec_options()
    with tempfile.TemporaryDirectory() as folder:
        archive = _archive(Path(folder) / "archive", codec, width, height)
        restore(archive, KEY, options=options)  # loads the codec
        alone = [_timed(lambda: restore(archive, KEY, options=options)) for _ in range(max(4, requests // 4))]
        command = [sys.executable, "-m", "jobs", "restore", archive, KEY, "-o", f"{folder}/photo.jpg"]
        from_cold_s = _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        with _server(archive, options.device) as url:
            served = {number: _ask(url, int(number), requests) for number in clients.split(",")}
    result: dict[str, Any] = {
        "codec": codec, "width": width, "height": height, "device": options.device, "num_requests": requests,
        "restore": {"p50_s": _quantile(alone, 0.5), "p95_s": _quantile(alone, 0.95), "from_cold_s": round(from_cold_s, 3)},
        "clients": served,
    }  # fmt: skip
    one = result["restore"]
    typer.echo(f"restore    p50 {one['p50_s']:.3f} s  p95 {one['p95_s']:.3f} s  ({one['from_cold_s']:.1f} s with its process)")
    for number, found in served.items():
        times = f"p50 {found['p50_s']:.3f} s  p95 {found['p95_s']:.3f} s"
        typer.echo(f"{number:>2} clients {times}  {found['requests_per_s']:.2f} requests/s")
    typer.echo(json.dumps(result))


def _archive(folder: Path, codec: str, width: int, height: int) -> str:
    """An archive of one photo, a crop of a real one."""
    from pipeline.archive.writer import ArchiveWriter
    from pipeline.codecs.registry import get_codec
    from pipeline.pixels.formats.reader import read_pixels
    from pipeline.records import EncodedPhoto, Outcome

    pixels = read_pixels((SAMPLE_PHOTOS / "fig.jpg").read_bytes())[:height, :width].copy()
    if pixels.shape[:2] != (height, width):
        raise PhotoarkError(f"the photo that is cut has {pixels.shape[1]} x {pixels.shape[0]} pixels")
    made_by = get_codec(codec)
    row = EncodedPhoto(
        key=KEY, image=made_by.encode([pixels])[0], codec=codec, model=made_by.info.model, outcome=Outcome.ENCODED,
        format="JPEG", mode="RGB", width=width, height=height, source_uri=KEY, source_bytes=0,
    )  # fmt: skip
    ArchiveWriter.open_or_create(str(folder)).commit([row])
    return str(folder)


@contextmanager
def _server(archive: str, device: str) -> Iterator[str]:
    """URL of the photo on a server of its own, once that is ready."""
    from urllib.request import urlopen

    command = [sys.executable, "-m", "jobs", "serve", archive, "--port", "0", "--device", device]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            photos = process.stdout.readline().strip().removeprefix(f"{archive}: ")
            with urlopen(f"{photos}/{KEY}") as answer:  # comes when the codec is there
                answer.read()
            yield f"{photos}/{KEY}"
        finally:
            process.terminate()


def _ask(url: str, num_clients: int, num_requests: int) -> dict[str, float]:
    from urllib.request import urlopen

    times: list[float] = []

    def get() -> None:
        with urlopen(url) as answer:
            answer.read()

    def client() -> None:
        times.extend([_timed(get) for _ in range(num_requests // num_clients)])

    threads = [threading.Thread(target=client) for _ in range(num_clients)]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - started_s
    return {
        "requests_per_s": round(len(times) / elapsed_s, 3),
        "p50_s": _quantile(times, 0.5),
        "p95_s": _quantile(times, 0.95),
    }


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 4)
