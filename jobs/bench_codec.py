"""`photoark bench codec`: time by stage, photos a second and memory of a neural codec, beside the plain way in the same run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.options import Device

if TYPE_CHECKING:
    from pipeline.codecs.ditic.codec import DiTICCodec
    from pipeline.codecs.precision import Runtime

SAMPLE_PHOTOS = Path(__file__).parents[1] / "tests" / "photos"
NUM_MIXED = 24


def bench_codec(
    size: Annotated[str, typer.Option(help="small, the shipped weights; full or tiny, random ones.")] = "small",
    resolutions: Annotated[str, typer.Option(help="Sides of the square photos, comma-separated.")] = "512,1024,2048,4096",
    device: Device = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights as 8-bit integers.")] = False,
    compile_kernels: Annotated[bool, typer.Option("--compile", help="Compile kernels for each shape.")] = False,
    memory: Annotated[float | None, typer.Option(help="GiB that the codec may use beside its weights.")] = None,
    seconds: Annotated[float, typer.Option(help="Time to look for the best batch, each resolution and direction.")] = 20.0,
    out: Annotated[Path | None, typer.Option(help="File for the JSON, which is the last line of the output too.")] = None,
) -> None:
    """Measure a neural codec by stage and as a whole; the last line is a JSON object."""
    from pipeline.codecs.ditic.device import choose_device
    from pipeline.codecs.ditic.measure import PLAIN, device_name, peak
    from pipeline.codecs.precision import Runtime

    memory_bytes = None if memory is None else int(memory * 2**30)
    runtime = Runtime(dtype=precision, int8_weights=int8, compile=compile_kernels, memory_bytes=memory_bytes)
    where = choose_device(device or "auto")
    fast, plain = _codec(size, where, runtime), _codec(size, where, PLAIN)
    best = peak(fast.device, fast.networks.dtype)
    result: dict[str, Any] = {
        "size": size, "device": device_name(where), "dtype": str(fast.networks.dtype).removeprefix("torch."),
        "int8": int8, "compile": compile_kernels, "num_workers": fast.num_workers,
        "peak_tflops": round(best.flops_per_s / 1e12, 3), "peak_gb_per_s": round(best.bytes_per_s / 1e9, 1),
    }  # fmt: skip
    typer.echo(
        f"ditic {size} on {result['device']}, {result['dtype']}; the device's peak: "
        f"{result['peak_tflops']} TFLOP/s, {result['peak_gb_per_s']} GB/s"
    )
    result["resolutions"] = [_one(int(side), fast, plain, best, seconds) for side in resolutions.split(",")]
    result["mixed"] = _mixed(fast, plain)
    line = json.dumps(result)
    if out:
        out.write_text(line + "\n")
    typer.echo(line)


def bench_memory(
    size: Annotated[str, typer.Option(help="small, the shipped weights; full or tiny, random ones.")] = "small",
    megapixels: Annotated[float, typer.Option(help="Of the photo, 4 to 3.")] = 200.0,
    memory: Annotated[float | None, typer.Option(help="GiB that the codec may use beside its weights.")] = None,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    int8: Annotated[bool, typer.Option("--int8", help="Keep weights as 8-bit integers.")] = False,
) -> None:
    """Encode and decode one large photo; time and peak memory, as a JSON object."""
    from pipeline.codecs.ditic.device import choose_device
    from pipeline.codecs.ditic.measure import device_name, one_photo
    from pipeline.codecs.precision import Runtime

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


def _one(side: int, fast: DiTICCodec, plain: DiTICCodec, best: Any, seconds: float) -> dict[str, Any]:
    from pipeline.codecs.ditic.measure import MAX_BATCH, difference, stages, throughput, work

    photo = _photo(side, side)
    parts = stages(fast, photo)
    padded = -(-side // fast.info.multiple) * fast.info.multiple
    needed = work(fast.model.config, fast.networks.dtype, padded, padded)
    batches = [2**i for i in range(MAX_BATCH.bit_length())]
    row: dict[str, Any] = {"side": side, "stages_ms": parts, "plain_stages_ms": stages(plain, photo)}
    row["max_abs_error"], row["psnr_to_plain"] = difference(fast, plain, photo)
    typer.echo(f"{side:5} decoded against plain: at most {row['max_abs_error']} levels of 255, PSNR {row['psnr_to_plain']} dB")
    for direction in ("encode", "decode"):
        ours = throughput(fast, photo, direction, batches=batches, budget_s=seconds)
        theirs = throughput(plain, photo, direction, batches=[1], budget_s=seconds)
        ratio = ours.images_per_s / theirs.images_per_s
        flops_share = needed[direction].flops * ours.images_per_s / best.flops_per_s
        bytes_share = needed[direction].moved_bytes * ours.images_per_s / best.bytes_per_s
        row[direction] = {
            **asdict(ours), "ms_per_image": round(1000 / ours.images_per_s, 2), "plain": asdict(theirs),
            "ratio": round(ratio, 2),
            **asdict(needed[direction]), "flops_share": round(flops_share, 3), "bytes_share": round(bytes_share, 3),
            "entropy_share": round(parts[direction]["entropy"] / sum(parts[direction].values()), 3),
        }  # fmt: skip
        by_stage = "  ".join(f"{name} {value:.1f}" for name, value in parts[direction].items())
        typer.echo(
            f"{side:5} {direction}  {by_stage} ms  |  {ours.images_per_s:.2f} images/s at batch {ours.batch}, plain "
            f"{theirs.images_per_s:.2f} ({ratio:.2f} times)  |  {ours.peak_bytes / 2**30:.2f} GiB, plain "
            f"{theirs.peak_bytes / 2**30:.2f}"
        )
        typer.echo(
            f"{side:5} {direction}  roofline: {needed[direction].flops / 1e9:.1f} GFLOP ({flops_share:.0%} of the peak), "
            f"{needed[direction].moved_bytes / 1e9:.2f} GB moved ({bytes_share:.0%}; over 100%: what caches spare)"
        )
    return row


def _mixed(fast: DiTICCodec, plain: DiTICCodec) -> dict[str, Any]:
    """A folder of photos about 768 x 512, no two of one size."""
    from pipeline.codecs.ditic.measure import folder_images_per_s

    photos = [_photo(512 + 8 * (i % 5), 768 - 8 * i) for i in range(NUM_MIXED // 2)]
    photos += [photo.transpose(1, 0, 2).copy() for photo in photos]
    ours = folder_images_per_s(fast, photos, at_once=NUM_MIXED)
    theirs = folder_images_per_s(plain, photos, at_once=1)
    ratios = {direction: round(ours[direction] / theirs[direction], 2) for direction in ours}
    typer.echo(
        f"{len(photos)} photos of mixed sizes near 768 x 512: "
        + "; ".join(f"{d} {ours[d]:.2f} images/s, plain {theirs[d]:.2f} ({ratios[d]:.2f} times)" for d in ours)
    )
    return {"num_photos": len(photos), "images_per_s": ours, "plain_images_per_s": theirs, "ratio": ratios}


def _codec(size: str, device: str, runtime: Runtime) -> DiTICCodec:
    from pipeline.codecs.ditic.codec import DiTICCodec
    from pipeline.codecs.ditic.config import DiTICConfig
    from pipeline.codecs.ditic.measure import random_codec
    from pipeline.errors import SettingError

    if size == "small":
        return DiTICCodec.load(device=device, runtime=runtime)
    random = {"full": DiTICConfig.full, "tiny": DiTICConfig.tiny}
    if size not in random:
        raise SettingError(f"--size {size}: choose small, full or tiny")
    return random_codec(random[size](), device=device, runtime=runtime)


def _photo(height: int, width: int) -> Any:
    from pipeline.codecs.ditic.measure import enlarged
    from pipeline.pixels.reader import read_pixels

    return enlarged(read_pixels((SAMPLE_PHOTOS / "bridge.jpg").read_bytes()), height, width)
