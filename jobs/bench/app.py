"""`photoark bench`: how fast the codec is alone, how fast inside the pipeline, and how long the help takes, in one run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.bench.codec import bench_codec, bench_memory
from jobs.bench.commands import bench_commands
from jobs.bench.faults import bench_faults
from jobs.bench.flat import bench_flat
from jobs.bench.scaling import bench_scaling
from jobs.bench.serve import bench_serve
from jobs.options import SAMPLE_PHOTOS, Device

if TYPE_CHECKING:
    from pipeline.codecs.registry import CodecOptions
    from pipeline.progress import Progress


bench_app = typer.Typer(name="bench", invoke_without_command=True, add_completion=False)


@bench_app.callback()
def bench(
    context: typer.Context,
    photos: Annotated[Path, typer.Option(help="Folder of photos.")] = SAMPLE_PHOTOS,
    codec: Annotated[str, typer.Option(help="Codec to measure.")] = "ditic-small",
    quality: Annotated[int | None, typer.Option(help="As of encode.")] = None,
    repeat: Annotated[int, typer.Option(help="Copies of each photo, under keys of their own.")] = 4,
    device: Device = None,
) -> None:
    """Measure the codec alone and the pipeline end to end, in images/s and MP/s; the last line is a JSON object."""
    if context.invoked_subcommand:
        return
    from jobs.settings import load_settings

    options = load_settings(quality=quality, device=device).codec_options()
    with tempfile.TemporaryDirectory() as folder:
        source = _copies(photos, Path(folder) / "photos", repeat)
        # Each in a process state of its own making: first the codec, then Ray, never both at once.
        alone = _codec_alone(source, codec, options)
        piped = _pipeline(source, Path(folder) / "archive", codec, options)
    help_s = min(_help_s() for _ in range(5))
    ratio = piped["running_mp_per_s"] / alone["mp_per_s"]
    typer.echo(
        f"codec alone      {alone['images_per_s']:8.2f} images/s  {alone['mp_per_s']:7.2f} MP/s  ({alone['num_images']} images)"
    )
    running = f"{piped['running_images_per_s']:8.2f} images/s  {piped['running_mp_per_s']:7.2f} MP/s"
    typer.echo(f"pipeline running {running}  ({ratio:.0%} of the codec alone)")
    typer.echo(f"pipeline, start to end: {piped['total_s']:.1f} s, of which {piped['first_row_s']:.1f} s to the first rows")
    typer.echo(f"photoark --help  {help_s:.3f} s")
    typer.echo(
        json.dumps({"codec": codec, "alone": alone, "pipeline": piped, "ratio": round(ratio, 4), "help_s": round(help_s, 4)})
    )


bench_app.command("codec")(bench_codec)
bench_app.command("commands")(bench_commands)
bench_app.command("memory")(bench_memory)
bench_app.command("scaling")(bench_scaling)
bench_app.command("flat")(bench_flat)
bench_app.command("faults")(bench_faults)
bench_app.command("serve")(bench_serve)


def _copies(photos: Path, target: Path, repeat: int) -> Path:
    target.mkdir()
    for i in range(repeat):
        for path in sorted(p for p in photos.iterdir() if p.is_file() and p.suffix != ".md"):
            shutil.copy2(path, target / f"{i:03d}-{path.name}")
    return target


def _codec_alone(source: Path, codec_name: str, options: CodecOptions) -> dict[str, Any]:
    """Pixels in memory to bitstreams, in the blocks that the pipeline makes."""
    from pipeline.codecs.registry import get_codec
    from pipeline.on_ray.resources import MAX_BLOCK_PHOTOS
    from pipeline.pixels.formats.reader import read_pixels

    codec = get_codec(codec_name, options)
    images = [read_pixels(path.read_bytes()) for path in sorted(source.iterdir())]
    codec.encode(images[:1])  # warm: kernels are compiled and memory is claimed
    start_s = time.perf_counter()
    for first in range(0, len(images), MAX_BLOCK_PHOTOS):
        codec.encode(images[first : first + MAX_BLOCK_PHOTOS])
    elapsed_s = time.perf_counter() - start_s
    pixels = sum(image.shape[0] * image.shape[1] for image in images)
    return {
        "num_images": len(images),
        "images_per_s": round(len(images) / elapsed_s, 3),
        "mp_per_s": round(pixels / 1e6 / elapsed_s, 3),
    }


def _pipeline(source: Path, archive: Path, codec: str, options: CodecOptions) -> dict[str, Any]:
    """The whole way, on a Ray of its own. Running: from the first finished rows to the last."""
    from cluster.connect import connected
    from pipeline.encode.job import EncodeJob
    from pipeline.encode.run import encode

    seen: list[Progress] = []
    start_s = time.perf_counter()
    with connected():
        job = EncodeJob(source=str(source), archive=str(archive), codec=codec, options=options)
        summary = encode(job, seen.append)
    total_s = time.perf_counter() - start_s
    first, last = seen[0], next(p for p in seen if p.num_done == seen[-1].num_done)
    running_s = max(last.elapsed_s - first.elapsed_s, 1e-9)
    share = (last.num_done - first.num_done) / last.num_done
    return {
        "num_images": summary.num_encoded,
        "running_images_per_s": round((last.num_done - first.num_done) / running_s, 3),
        "running_mp_per_s": round(summary.num_pixels * share / 1e6 / running_s, 3),
        "first_row_s": round(first.elapsed_s, 2),
        "total_s": round(total_s, 2),
    }


def _help_s() -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs", "--help"], check=True, capture_output=True)
    return time.perf_counter() - start_s
