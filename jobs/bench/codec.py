"""`photoark bench codec`: time by stage, photos a second and memory of a neural codec, beside the plain way in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.options import SAMPLE_PHOTOS, Device, Overwrite
from jobs.outputs import check_output
from pipeline.errors import SettingError

if TYPE_CHECKING:
    from pipeline.codecs.ditic.codec import DiTICCodec
    from pipeline.codecs.ditic.measure import Peak
    from pipeline.codecs.neural.runtime import Runtime

NUM_MIXED = 24
MAX_ERROR_SIDE = 1024
DIRECTIONS = ("encode", "decode")
SIZES = ("small", "full", "tiny")


def bench_codec(
    size: Annotated[str, typer.Option(help="small, the shipped weights; full or tiny, random ones.")] = "small",
    resolutions: Annotated[str, typer.Option(help="Sides of the square photos, comma-separated.")] = "512,1024,2048,4096",
    device: Device = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights as 8-bit integers.")] = False,
    compile_kernels: Annotated[bool, typer.Option("--compile", help="Compile kernels for each shape.")] = False,
    memory: Annotated[float | None, typer.Option(help="GiB that the codec may use beside its weights.")] = None,
    seconds: Annotated[float, typer.Option(help="Time to look for the best batch, each resolution and direction.")] = 20.0,
    folder: Annotated[bool, typer.Option(help="Measure a folder of mixed sizes too.")] = True,
    plain: Annotated[
        bool, typer.Option("--plain", help="The plain way alone: float32, eager, one photo at a time; integers in float64.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File for the JSON, which is the last line of the output too.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure a neural codec by stage and as a whole, beside the plain way; the last line is a JSON object."""
    from pipeline.codecs.ditic.measure import PLAIN, device_name, difference, peak
    from pipeline.codecs.neural.device import choose_device
    from pipeline.codecs.neural.runtime import Runtime

    _check_size(size)
    if out:
        check_output(out, overwrite=overwrite)
    where = choose_device(device or "auto")
    sides = [int(side) for side in resolutions.split(",")]
    if plain:
        typer.echo(json.dumps(_measured(_codec(size, where, PLAIN), sides, seconds, at_once=1, folder=folder)))
        return
    # In a process of its own: two codecs in one would share caches and threads.
    same = ["--size", size, "--resolutions", resolutions, "--device", where, "--seconds", str(seconds)]
    same.append("--folder" if folder else "--no-folder")
    command = [sys.executable, "-m", "jobs", "bench", "codec", "--plain", *same]
    theirs = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])

    memory_bytes = None if memory is None else int(memory * 2**30)
    codec = _codec(size, where, Runtime(dtype=precision, int8_weights=int8, compile=compile_kernels, memory_bytes=memory_bytes))
    ours = _measured(codec, sides, seconds, at_once=NUM_MIXED, folder=folder)
    best = peak(codec)
    reference = _codec(size, where, PLAIN)
    errors = {str(side): difference(codec, reference, _photo(side, side)) for side in sides if side <= MAX_ERROR_SIDE}
    result: dict[str, Any] = {
        "size": size, "device": device_name(where), "dtype": str(codec.networks.dtype).removeprefix("torch."),
        "int8": int8, "compile": compile_kernels, "num_workers": codec.num_workers, "memory_gib": memory,
        "peak_flops_per_s": best.flops_per_s, "peak_bytes_per_s": best.bytes_per_s,
        "max_abs_error_and_psnr_to_plain": errors, "ours": ours, "plain": theirs, "ratio": _ratios(ours, theirs),
    }  # fmt: skip
    result["roofline"] = {str(side): _roofline(codec, side, ours["sides"][str(side)], best) for side in sides}
    _show(result)
    line = json.dumps(result)
    if out:
        out.write_text(line + "\n")
    typer.echo(line)


def _measured(codec: DiTICCodec, sides: list[int], seconds: float, *, at_once: int, folder: bool) -> dict[str, Any]:
    """One codec: every side by stage and as a whole, and a folder of photos near 768 x 512, no two of one size."""
    from pipeline.codecs.ditic.measure import MAX_BATCH, folder_images_per_s, stages, throughput

    batches = [2**i for i in range(MAX_BATCH.bit_length()) if 2**i <= max(1, at_once)]
    found: dict[str, Any] = {}
    for side in sides:
        photo = _photo(side, side)
        found[str(side)] = {
            "stages_ms": stages(codec, photo),
            **{d: asdict(throughput(codec, photo, d, batches=batches, budget_s=seconds)) for d in DIRECTIONS},
        }
    if not folder:
        return {"sides": found}
    photos = [_photo(512 + 8 * (i % 5), 768 - 8 * i) for i in range(NUM_MIXED // 2)]
    photos += [photo.transpose(1, 0, 2).copy() for photo in photos]
    return {"sides": found, "mixed": {"num_photos": len(photos), **folder_images_per_s(codec, photos, at_once=at_once)}}


def _ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Images/s against the plain way's."""
    found = {
        side: {d: round(row[d]["images_per_s"] / theirs["sides"][side][d]["images_per_s"], 2) for d in DIRECTIONS}
        for side, row in ours["sides"].items()
    }
    if "mixed" not in ours:
        return found
    return found | {"mixed": {d: round(ours["mixed"][d] / theirs["mixed"][d], 2) for d in DIRECTIONS}}


def _roofline(codec: DiTICCodec, side: int, row: dict[str, Any], best: Peak) -> dict[str, Any]:
    from pipeline.codecs.ditic.measure import work

    padded = -(-side // codec.info.multiple) * codec.info.multiple
    needed = work(codec.model.config, codec.networks.dtype, padded, padded)
    return {
        d: {
            **asdict(needed[d]),
            "flops_share": round(needed[d].flops * row[d]["images_per_s"] / best.flops_per_s, 3),
            "bytes_share": round(needed[d].moved_bytes * row[d]["images_per_s"] / best.bytes_per_s, 3),
            "entropy_share": round(row["stages_ms"][d]["entropy"] / sum(row["stages_ms"][d].values()), 3),
        }
        for d in DIRECTIONS
    }


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"ditic {result['size']}, {result['dtype']}, on {result['device']}")
    for name in ("side", "", "ms by stage, one photo", "images/s", "batch", "GiB", "plain", "GiB", "times", "GFLOP", "of peak"):
        table.add_column(name, justify="right")
    for side, row in result["ours"]["sides"].items():
        for d in DIRECTIONS:
            ours, theirs, roof = row[d], result["plain"]["sides"][side][d], result["roofline"][side][d]
            table.add_row(
                side, d, "  ".join(f"{stage} {ms:.1f}" for stage, ms in row["stages_ms"][d].items()),
                f"{ours['images_per_s']:.2f}", str(ours["batch"]), f"{ours['peak_bytes'] / 2**30:.2f}",
                f"{theirs['images_per_s']:.2f}", f"{theirs['peak_bytes'] / 2**30:.2f}", f"{result['ratio'][side][d]:.2f}",
                f"{roof['flops'] / 1e9:.1f}", f"{roof['flops_share']:.0%}",
            )  # fmt: skip
    Console(width=150).print(table)
    for side, (level, psnr) in result["max_abs_error_and_psnr_to_plain"].items():
        typer.echo(f"{side}: decoded photos differ from the plain way's by at most {level} of 255, PSNR {psnr} dB")
    if "mixed" in result["ours"]:
        ours, theirs, ratio = (result[name]["mixed"] for name in ("ours", "plain", "ratio"))
        typer.echo(
            f"{ours['num_photos']} photos of mixed sizes near 768 x 512: "
            + "; ".join(f"{d} {ours[d]:.2f} images/s, plain {theirs[d]:.2f} ({ratio[d]} times)" for d in DIRECTIONS)
        )
    typer.echo(
        f"roofline: the device does {result['peak_flops_per_s'] / 1e12:.3f} TFLOP/s in a matrix product and "
        f"{result['peak_bytes_per_s'] / 1e9:.1f} GB/s in a copy. Float networks, a photo:"
    )
    for side, row in result["roofline"].items():
        for d, roof in row.items():
            typer.echo(
                f"  {side} {d}: {roof['flops'] / 1e9:.1f} GFLOP, {roof['flops_share']:.0%} of that; "
                f"{roof['moved_bytes'] / 1e9:.2f} GB read and written by their operations, {roof['bytes_share']:.0%} "
                f"(over 100%: caches); the entropy path takes {roof['entropy_share']:.0%} of the time"
            )


def bench_memory(
    size: Annotated[str, typer.Option(help="small, the shipped weights; full or tiny, random ones.")] = "small",
    megapixels: Annotated[float, typer.Option(help="Of the photo, 4 to 3.")] = 200.0,
    memory: Annotated[float | None, typer.Option(help="GiB that the codec may use beside its weights.")] = None,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights as 8-bit integers.")] = False,
) -> None:
    """Encode and decode one large photo; time and peak memory, as a JSON object."""
    from pipeline.codecs.ditic.measure import device_name, one_photo
    from pipeline.codecs.neural.device import choose_device
    from pipeline.codecs.neural.runtime import Runtime

    where = choose_device(device or "auto")
    memory_bytes = None if memory is None else int(memory * 2**30)
    codec = _codec(size, where, Runtime(dtype=precision, int8_weights=int8, memory_bytes=memory_bytes))
    height = int((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = int(megapixels * 1e6) // height
    chosen = codec.plan_for(*(-(-side // codec.info.multiple) * codec.info.multiple for side in (width, height)))
    found = one_photo(codec, _photo(height, width))
    typer.echo(
        f"{width} x {height} on {device_name(where)}, tiles of {chosen.tile or 'the whole'}: encode {found['encode_s']} s, "
        f"peak {found['encode_peak_bytes'] / 2**30:.2f} GiB; decode {found['decode_s']} s, peak "
        f"{found['decode_peak_bytes'] / 2**30:.2f} GiB (of the whole process, on a CPU)"
    )
    typer.echo(json.dumps({"size": size, "width": width, "height": height, "memory_gib": memory, **asdict(chosen), **found}))


def _codec(size: str, device: str, runtime: Runtime) -> DiTICCodec:
    from pipeline.codecs.ditic.codec import DiTICCodec
    from pipeline.codecs.ditic.config import DiTICConfig
    from pipeline.codecs.ditic.measure import random_codec

    _check_size(size)
    if size == "small":
        return DiTICCodec.load(device=device, runtime=runtime)
    config = DiTICConfig.full() if size == "full" else DiTICConfig.tiny()
    return random_codec(config, device=device, runtime=runtime)


def _check_size(size: str) -> None:
    if size not in SIZES:
        raise SettingError(f"--size {size}: choose one of {', '.join(SIZES)}")


def _photo(height: int, width: int) -> Any:
    from pipeline.codecs.ditic.measure import enlarged
    from pipeline.pixels.formats.reader import read_pixels

    return enlarged(read_pixels((SAMPLE_PHOTOS / "bridge.jpg").read_bytes()), height, width)
