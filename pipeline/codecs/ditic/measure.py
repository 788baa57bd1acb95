"""What a codec costs: time by stage, photos a second, memory, and how that compares with what the device can do."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.codecs.base import Pixels
from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.exact import ExactEntropyModel, quantise
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.neural.runtime import Runtime
from pipeline.entropy.encoder import encode_symbols
from pipeline.entropy.quantise import observe
from pipeline.errors import PhotoarkError
from pipeline.pixels.padding import pad

PLAIN = Runtime(dtype="float32", fused=False, num_workers=1)
"""The plain way: float32, eager, one photo after the other."""
MAX_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Photos a second at the batch that gave most of them."""

    images_per_s: float
    batch: int
    peak_bytes: int
    """Of the device's memory (of the process, on a CPU), weights included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Floating-point operations and bytes that the float networks move, for one photo."""

    flops: int
    moved_bytes: int
    """Read and written by every operation, as if nothing stayed in a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """What the device does at best, measured."""

    flops_per_s: float
    """Of a large matrix product in the networks' format."""
    bytes_per_s: float
    """Read and written by a large copy."""


@torch.no_grad()
def random_codec(config: DiTICConfig, *, device: str, runtime: Runtime) -> DiTICCodec:
    """A codec of these sizes with random weights: as fast as a trained one, its photos mean nothing."""
    torch.manual_seed(0)
    with torch.device(device):
        model = DiTIC(config).eval().requires_grad_(False)
    model.to(device)  # compressai makes its parameters on the CPU, whatever the context says
    codec: Any = model.codec
    x = torch.rand(1, 3, config.multiple, config.multiple, device=device) * 2 - 1
    codec.entropy_bottleneck.update(force=True)
    codec.gaussian_conditional.update()
    with observe(codec, ENTROPY_PATH) as ranges:
        lat, aux = model.analyse(x)
        quality = torch.zeros(1, dtype=torch.int64, device=device)
        y, _ = codec.analyse(lat, aux, codec.gain(quality))
        # Random weights make latents near zero; spread, they become symbols of several values.
        spread = float(2 / y.std().clamp(min=1e-6))
        codec.g_a.analysis_transform[-1].ffn[2].weight.mul_(spread)
        codec(lat, aux, quality)
    codec.to("cpu")
    specs, tensors = quantise(codec, ranges, 100.0)
    codec.to(device)
    entropy = ExactEntropyModel(codec, specs, tensors)
    loaded = checkpoint.Loaded(model=model, entropy=entropy, fingerprint="0" * 16, training={})
    return DiTICCodec(loaded, device=device, runtime=runtime)


def stages(codec: DiTICCodec, photo: Pixels, *, repeats: int = 3) -> dict[str, dict[str, float]]:
    """Milliseconds of each stage for one photo: direction -> stage -> time; the least of `repeats`, after one more to warm."""
    (stream,) = codec.encode([photo])
    return codec.solo(lambda: _stages(codec, photo, stream, repeats))


@torch.inference_mode()
def _stages(codec: DiTICCodec, photo: Pixels, stream: bytes, repeats: int) -> dict[str, dict[str, float]]:
    networks, entropy = codec.networks, codec.entropy
    padded = pad(photo, codec.info.multiple)[None]
    plan = codec.plan_for(padded.shape[2], padded.shape[1])
    times: dict[tuple[str, str], list[float]] = defaultdict(list)

    @contextmanager
    def clock(direction: str, stage: str) -> Iterator[None]:
        _synchronise(codec.device)
        start_s = time.perf_counter()
        yield
        _synchronise(codec.device)
        times[direction, stage].append(1000 * (time.perf_counter() - start_s))

    for _ in range(repeats + 1):
        with clock("encode", "autoencoder"):
            features = networks.encode_pixels(padded, plan)
        with clock("encode", "latent_codec"):
            y, z = networks.encode_latents(features, [0])
        with clock("encode", "entropy"):
            for symbols, rows in entropy.encode(y, z, [0]):
                encode_symbols(symbols, rows, entropy.tables)
        with clock("decode", "entropy"):
            y_hat, scales = codec.read([codec.open(stream)])
        with clock("decode", "latent_codec"):
            heads, condition = networks.decode_latents(y_hat, scales, [0])
        with clock("decode", "diffusion"):
            x0 = networks.denoise(heads, condition, plan)
        with clock("decode", "autoencoder"):
            networks.decode_pixels(x0, plan)
    found: dict[str, dict[str, float]] = {"encode": {}, "decode": {}}
    for (direction, stage), values in times.items():
        found[direction][stage] = round(min(values[1:]), 2)
    return found


def throughput(codec: DiTICCodec, photo: Pixels, direction: str, *, batches: Sequence[int], budget_s: float) -> Throughput:
    """Photos a second of `encode` or `decode`, at the best of `batches`; trying stops when `budget_s` is spent."""
    (stream,) = codec.encode([photo])
    run: Callable[[int], object] = (
        (lambda n: codec.encode([photo] * n)) if direction == "encode" else (lambda n: codec.decode([stream] * n))
    )
    best: Throughput | None = None
    begun_s = time.perf_counter()
    for batch in batches:
        try:
            run(batch)
            _reset_peak(codec.device)
            elapsed_s = min(_seconds(partial(run, batch), codec.device) for _ in range(2))
        except (torch.OutOfMemoryError, PhotoarkError):
            break
        now = Throughput(images_per_s=round(batch / elapsed_s, 3), batch=batch, peak_bytes=_peak_bytes(codec.device))
        best = now if best is None or now.images_per_s > best.images_per_s else best
        if time.perf_counter() - begun_s > budget_s:
            break
    if best is None:
        raise PhotoarkError("not even one photo of this size fits in memory")
    return best


def difference(codec: DiTICCodec, plain: DiTICCodec, photo: Pixels) -> tuple[int, float]:
    """Largest difference in levels of 255, and PSNR in dB, between what two codecs of one model make of the same stream."""
    (stream,) = plain.encode([photo])
    error = codec.decode([stream])[0].astype(np.int32) - plain.decode([stream])[0]
    mse = float(np.square(error).mean())
    return int(np.abs(error).max()), round(10 * math.log10(255**2 / mse), 2) if mse else math.inf


def one_photo(codec: DiTICCodec, photo: Pixels) -> dict[str, float]:
    """Seconds and peak memory of encoding and decoding a single photo once."""
    _reset_peak(codec.device)
    streams: list[bytes] = []
    encode_s = _seconds(lambda: streams.extend(codec.encode([photo])), codec.device)
    encode_bytes = _peak_bytes(codec.device)
    _reset_peak(codec.device)
    decode_s = _seconds(lambda: codec.decode(streams), codec.device)
    return {
        "encode_s": round(encode_s, 2), "encode_peak_bytes": encode_bytes,
        "decode_s": round(decode_s, 2), "decode_peak_bytes": _peak_bytes(codec.device), "stream_bytes": len(streams[0]),
    }  # fmt: skip


def folder_images_per_s(codec: DiTICCodec, photos: Sequence[Pixels], *, at_once: int) -> dict[str, float]:
    """Photos a second over photos of mixed sizes, `at_once` a call, each direction."""
    streams = [codec.encode([photo])[0] for photo in photos]  # also warms

    def parts(items: Sequence[Any]) -> list[Sequence[Any]]:
        return [items[i : i + at_once] for i in range(0, len(items), at_once)]

    encode_s = min(_seconds(lambda: [codec.encode(part) for part in parts(photos)], codec.device) for _ in range(2))
    decode_s = min(_seconds(lambda: [codec.decode(part) for part in parts(streams)], codec.device) for _ in range(2))
    return {"encode": round(len(photos) / encode_s, 3), "decode": round(len(photos) / decode_s, 3)}


def work(config: DiTICConfig, dtype: torch.dtype, width: int, height: int) -> dict[str, Work]:
    """Work of the float networks for one photo of this padded size, each direction; counted without computing."""
    with torch.device("meta"):
        model = DiTIC(config).eval().requires_grad_(False).to(dtype)
    x = torch.empty(1, 3, height, width, dtype=dtype, device="meta")
    shape = (1, config.latent.y_channels, height // config.y_factor, width // config.y_factor)
    y = torch.empty(shape, dtype=dtype, device="meta")
    gain = torch.empty(1, 1, 1, 1, dtype=dtype, device="meta")

    def encode() -> None:
        model.codec.analyse(*model.analyse(x), gain)

    def decode() -> None:
        model.render(model.denoise(*model.steer(y, y, gain)).to(dtype))

    return {"encode": _count(encode), "decode": _count(decode)}


def peak(codec: DiTICCodec) -> Peak:
    """Measure the best matrix product and copy of the codec's device."""
    return codec.solo(lambda: _peak(codec.device, codec.networks.dtype))


def _peak(device: torch.device, dtype: torch.dtype) -> Peak:
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    source = torch.empty(size * size * 4, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product_s = min(_seconds(lambda: a @ a, device) for _ in range(5))
    copy_s = min(_seconds(lambda: target.copy_(source), device) for _ in range(5))
    return Peak(flops_per_s=2 * size**3 / product_s, bytes_per_s=2 * source.numel() / copy_s)


def device_name(device: str) -> str:
    """For a person: the GPU's name, or how many cores of what."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{len(os.sched_getaffinity(0))} CPU cores ({torch.backends.cpu.get_cpu_capability()})"


def enlarged(photo: Pixels, height: int, width: int) -> Pixels:
    """A photo's pixels, repeated to this size."""
    repeats = (-(-height // photo.shape[0]), -(-width // photo.shape[1]), 1)
    return np.tile(photo, repeats)[:height, :width].copy()


class _MovedBytes(TorchDispatchMode):
    """Bytes of the inputs and outputs of every operation that is not a view."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.total += sum(t.numel() * t.element_size() for t in tensors)
        return result


def _count(run: Callable[[], None]) -> Work:
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _MovedBytes() as moved:
        run()
    return Work(flops=flops.get_total_flops(), moved_bytes=moved.total)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _synchronise(device)
    start_s = time.perf_counter()
    run()
    _synchronise(device)
    return time.perf_counter() - start_s


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # Linux: forget the peak of the resident set


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) * 1024
