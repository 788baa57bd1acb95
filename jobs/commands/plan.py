"""`photoark plan`: the pools that a job would run, and what it would take on clusters of several sizes. Writes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import (
    ArchiveUrl,
    AsJson,
    Codec,
    Config,
    DefaultExcludes,
    Device,
    Exclude,
    Gate,
    Include,
    Ladder,
    PhotosOnly,
    Price,
    Quality,
    RayAddress,
    Weights,
)
from jobs.phrases import show
from jobs.summaries import show_estimate
from pipeline.errors import SettingError

if TYPE_CHECKING:
    from pipeline.encode.estimate import Estimate
    from pipeline.encode.forecast import Forecast
    from pipeline.on_ray.resources import ClusterShape, PoolPlan


def plan(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, bucket or prefix of photos.")],
    archive: ArchiveUrl,
    sizes: Annotated[str, typer.Option(help="Clusters to compare: so many GPUs or, on machines without, machines.")] = "1,8,64",
    ms_per_megapixel: Annotated[
        float | None, typer.Option(help="Encoding time of one GPU; by default what a sample takes on this machine.")
    ] = None,
    price: Price = None,
    include: Include = None,
    exclude: Exclude = None,
    photos_only: PhotosOnly = None,
    default_excludes: DefaultExcludes = None,
    codec: Codec = None,
    quality: Quality = None,
    gate: Gate = None,
    ladder: Ladder = None,
    device: Device = None,
    weights: Weights = None,
    ray_address: RayAddress = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say what encoding SRC would take: pools, photos a second, hours, size of the result and, with a price, cost."""
    from jobs.commands.encode import encode_job
    from jobs.settings import load_settings

    settings = load_settings(
        config, include=include, exclude=exclude, photos_only=photos_only, default_excludes=default_excludes,
        codec=codec, quality=quality, gate=gate, ladder=ladder, device=device, weights=weights, ray_address=ray_address,
        price_per_hour=price,
    )  # fmt: skip
    numbers = _sizes(sizes)

    from pipeline.codecs.neural.device import choose_device
    from pipeline.encode.estimate import estimate
    from pipeline.encode.forecast import forecast
    from pipeline.on_ray.resources import plan_pool

    job = encode_job(source, archive, settings)
    shape = _shape(settings.ray_address)
    on_gpus = job.device == "cuda" or (job.device == "auto" and (ms_per_megapixel is not None or shape.num_gpus > 0))
    if on_gpus and ms_per_megapixel is None and choose_device("auto") == "cpu":
        raise SettingError(
            "a sample on this machine does not tell how fast a GPU is: give --ms-per-megapixel (150 is what the paper has for "
            "the full model on an A100), or run this on a machine with such a GPU"
        )
    expected = estimate(job)
    s_per_megapixel = expected.s_per_megapixel if ms_per_megapixel is None else ms_per_megapixel / 1000
    found = []
    for number in numbers:
        pool = plan_pool(_resized(shape, number, on_gpus=on_gpus), device=job.device, num_photos=expected.num_todo)
        row = forecast(expected, pool, size=number, s_per_megapixel=s_per_megapixel, price_per_hour=settings.price_per_hour)
        found.append((pool, row))
    if as_json:
        rows = [{"pool": asdict(pool), "forecast": asdict(row)} for pool, row in found]
        typer.echo(json.dumps({"event": "plan", "estimate": asdict(expected), "clusters": rows}))
        return
    _show(expected, found, "GPUs" if on_gpus else "machines", job.block_bytes)


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingError(f"--sizes {text}: write whole numbers, as in 1,8,64") from error
    if min(sizes) < 1:
        raise SettingError(f"--sizes {text}: the least cluster has 1")
    return sizes


def _shape(address: str | None) -> ClusterShape:
    """Of the cluster at `address`, or of this machine as if Ray ran on it."""
    from pipeline.codecs.neural.device import choose_device
    from pipeline.on_ray.resources import ClusterShape, NodeKind, available_cores

    if address is None:
        return ClusterShape(
            kinds=(NodeKind(num_cpus=available_cores(), num_gpus=int(choose_device("auto") == "cuda"), number=1),)
        )

    from cluster.connect import connected
    from pipeline.on_ray.shape import read_shape

    with connected(address):
        return read_shape()


def _resized(shape: ClusterShape, number: int, *, on_gpus: bool) -> ClusterShape:
    """So many GPUs, each with the cores that GPUs have there; or so many of its largest machines."""
    from pipeline.on_ray.resources import CORES_PER_GPU, ClusterShape, NodeKind

    if on_gpus:
        cores = min((kind.num_cpus / kind.num_gpus for kind in shape.kinds if kind.num_gpus), default=CORES_PER_GPU)
        return ClusterShape(kinds=(NodeKind(num_cpus=cores, num_gpus=1, number=number),))
    return ClusterShape(kinds=(NodeKind(num_cpus=max(kind.num_cpus for kind in shape.kinds), num_gpus=0, number=number),))


def _show(expected: Estimate, found: list[tuple[PoolPlan, Forecast]], what: str, block_bytes: int) -> None:
    from rich.console import Console
    from rich.table import Table

    show_estimate(expected)
    if not expected.num_todo:
        return
    show(f"{expected.expected_megapixels:.1f} megapixels expected")
    table = Table()
    for name in (what, "actors", "cores each", "in flight", "photos/s", "hours", f"{what[:-1]}-hours", "cost", "shards"):
        table.add_column(name, justify="right")
    for pool, row in found:
        table.add_row(
            str(row.size), str(row.num_actors), f"{pool.cpus_per_actor:g}",
            f"{pool.tasks_in_flight} x {pool.block_photos} photos, {pool.in_flight_bytes(block_bytes) / 1e9:.2f} GB at most",
            f"{row.photos_per_s:.2f}{' (driver)' if row.limited_by_driver else ''}", f"{row.hours:.3f}",
            f"{row.size_hours:.3f}", "-" if row.cost is None else f"{row.cost:.2f}", str(row.num_shards),
        )  # fmt: skip
    Console(width=150).print(table)
    if any(row.limited_by_driver for _, row in found):
        typer.echo("(driver): one driver commits no more; split the keys over several, each with its own part of SRC")
