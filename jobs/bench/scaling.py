"""`photoark bench scaling`: the pipeline with simulated GPUs and real I/O, what its driver costs, and where it saturates.

What is simulated waits: the GPU, as long as it is told to; and, unless `--real-pixels`, the core that decodes a file's pixels,
as long as one core here takes for them: beside a GPU there are cores for that, where here two would do it for eight GPUs. All
else is done: files are read from S3, hashed, moved through Ray and probed, rows made, gathered and committed to S3.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.bench.store import MEGAPIXELS, mixed_photos, new_bucket, photo, s3_server, store_speed
from jobs.options import Overwrite
from jobs.outputs import check_outputs
from pipeline.errors import PhotoarkError

if TYPE_CHECKING:
    from jobs.bench.simulated_codec import SimulatedPixels
    from jobs.bench.simulation import Costs
    from pipeline.records import EncodedPhoto

MARGIN_S = 2.0
COMMIT_ROWS = 500
NUM_COMMITS = 21
NUM_SHARDS = 4000
DRIVER_MEGAPIXELS = 0.05
GPUS = (10, 30, 100, 300, 1000)
ROWS = (0, 10**6, 10**8, 10**9)


def bench_scaling(
    actors: Annotated[str, typer.Option(help="Simulated GPUs, one actor each; one run a number.")] = "1,2,4,8",
    ms_per_megapixel: Annotated[
        float, typer.Option(help="What the simulated GPU takes; 150 is the paper's figure for the full model on an A100.")
    ] = 150.0,
    seconds: Annotated[float, typer.Option(help="How long each run should keep its GPUs busy.")] = 30.0,
    simulate_pixels: Annotated[
        bool,
        typer.Option("--simulate-pixels/--real-pixels", help="Wait as long as a core would decode a file, or decode it here."),
    ] = True,
    photos_per_s: Annotated[
        float, typer.Option(help="Small photos a second at which the driver's overhead is measured, besides; 0: not.")
    ] = 100.0,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for scaling.json and scaling.png.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Measure efficiency against the ideal, and model 100 and 1,000 GPUs from it; the last line is a JSON object."""
    from jobs.bench.simulated_codec import SimulatedPixels

    if out is not None:
        check_outputs(out, ("scaling.json", "scaling.png"), overwrite=overwrite)
    numbers = [int(part) for part in actors.split(",")]
    s_per_megapixel = ms_per_megapixel / 1000
    photos = mixed_photos()
    pixels = SimulatedPixels.measured(dict(zip(MEGAPIXELS, photos, strict=True)).values())
    bits_per_pixel = 8 * sum(map(len, photos)) / (sum(MEGAPIXELS) * 1e6)
    gpu = f"a simulated GPU takes {ms_per_megapixel:g} ms a megapixel"
    pixels_s = f"{pixels.s_per_photo * 1e3:.1f} ms a photo and {pixels.s_per_megapixel * 1e3:.1f} ms a megapixel"
    typer.echo(
        f"{gpu}; pixels are decoded {f'by waiting, {pixels_s}, as measured of one core' if simulate_pixels else 'for real'}; "
        f"files of {bits_per_pixel:.1f} bits a pixel; {os.cpu_count()} cores for all that is real, and the S3 server"
    )
    with s3_server():
        gets_per_s, store_mb_per_s = store_speed(photos)
        typer.echo(f"the S3 server gives {gets_per_s:.0f} GETs/s, {store_mb_per_s:.0f} MB/s")
        runs = []
        for number in numbers:
            runs.append(_mixed(photos, number, s_per_megapixel, seconds, pixels if simulate_pixels else None))
            _tell(runs[-1])
        rate = None
        if photos_per_s:
            rate = _at_rate(photos_per_s, max(numbers), seconds)
            _tell(rate)
        commits = _commit_costs()
    from jobs.bench.simulation import Costs

    mean_megapixels = sum(MEGAPIXELS) / len(MEGAPIXELS)
    costs = Costs(photo_s=mean_megapixels * s_per_megapixel, row_s=_row_s(rate), **commits)
    model = _model(costs)
    typer.echo(
        f"driver: {costs.row_s * 1e6:.0f} us a row; {costs.commit_s * 1e3:.0f} ms a commit, {costs.commit_row_s * 1e6:.0f} us "
        f"more for each of its rows and {costs.commit_per_shard_s * 1e6:.0f} us for each shard of the archive"
    )
    for row in model:
        typer.echo(
            f"{row['num_gpus']:5d} GPUs, {row['num_drivers']:3d} drivers, {row['known_rows']:.0e} rows there, a commit every "
            f"{row['commit_interval_s']:g} s: {row['photos_per_s']:9.1f} photos/s, efficiency {row['efficiency']:.0%}, "
            f"driver busy {row['driver_busy']:.0%}"
        )
    result = {
        "ms_per_megapixel": ms_per_megapixel, "simulated_pixels": asdict(pixels) if simulate_pixels else None,
        "bits_per_pixel": round(bits_per_pixel, 2), "cores": os.cpu_count(),
        "store": {"gets_per_s": round(gets_per_s, 1), "mb_per_s": round(store_mb_per_s, 1)},
        "runs": runs, "at_rate": rate, "costs": asdict(costs), "model": model,
    }  # fmt: skip
    line = json.dumps(result)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scaling.json").write_text(line + "\n")
        _plot(result, out / "scaling.png")
    typer.echo(line)


def _tell(run: dict[str, Any]) -> None:
    start, cpu = run["start_s"], run["driver_cpu_share"]
    typer.echo(
        f"{run['actors']:3d} GPUs: {run['photos_per_s']:7.2f} photos/s, {run['megapixels_per_s']:7.2f} MP/s; steady for "
        f"{run['steady_s']:.0f} s: efficiency {run['efficiency'] or 0:.1%}, codecs busy {run['codec_busy_ratio']:.1%}; from "
        f"first block to last: {run['efficiency_first_block_to_last']:.1%}"
    )
    typer.echo(
        f"          driver, of a core: rows {cpu['rows']:.2%}, commits {cpu['commits']:.2%}, Ray Data {cpu['ray_data']:.1%}, "
        f"Ray {cpu['ray']:.1%}; commits last {run['commit_share']:.1%} of the time"
    )
    typer.echo(
        f"          Ray started in {start['ray']:.1f} s; after {start['first_actor']:.1f} s the first actor worked, after "
        f"{start['last_actor']:.1f} s all of them; first commit after {start['first_commit']:.1f} s"
    )


def _mixed(
    photos: list[bytes], num_actors: int, s_per_megapixel: float, seconds: float, pixels: SimulatedPixels | None
) -> dict[str, Any]:
    """The whole pipeline on `num_actors` simulated GPUs, with photos of all sizes on S3."""
    from pipeline.storage.base import Storage

    source = Storage(f"{new_bucket()}/photos")
    rounds = max(1, round(seconds * num_actors / (sum(MEGAPIXELS) * s_per_megapixel)))
    for i in range(rounds):
        for j, data in enumerate(photos):
            # Sizes mixed within a block, and another order each time.
            source.write(f"{i:05d}-{(7 * j + 3 * i) % len(photos):02d}.jpg", data)
    return _run(source.url, num_actors, s_per_megapixel, pixels)


def _at_rate(photos_per_s: float, num_actors: int, seconds: float) -> dict[str, Any]:
    """The pipeline at a given rate of small photos, from a folder: what the driver does for each is the same for any photo."""
    from jobs.bench.simulated_codec import SimulatedPixels

    data = photo(DRIVER_MEGAPIXELS)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(round(photos_per_s * seconds)):
            (Path(folder) / f"{i:07d}.jpg").write_bytes(data)
        found = _run(folder, num_actors, num_actors / photos_per_s / DRIVER_MEGAPIXELS, SimulatedPixels(0.0, 0.0))
    return found | {"wanted_photos_per_s": photos_per_s}


def _run(source: str, num_actors: int, s_per_megapixel: float, pixels: SimulatedPixels | None) -> dict[str, Any]:
    from cluster.connect import connected
    from jobs.bench.driver_watch import watched_driver
    from jobs.bench.simulated_codec import NAME, SimulatedCodecs
    from pipeline.codecs.points import CodecAt
    from pipeline.encode.history import History
    from pipeline.encode.job import EncodeJob
    from pipeline.encode.run import encode

    job = EncodeJob(
        source=source, archive=f"{new_bucket()}/archive", ladder=(CodecAt(NAME),), codecs=SimulatedCodecs(s_per_megapixel)
    )
    job = job if pixels is None else replace(job, read_pixels=pixels)
    before_s = time.perf_counter()
    with connected(num_gpus=num_actors), watched_driver() as watch:
        ray_s = time.perf_counter() - before_s
        # Not the time that Ray took to start: a cluster is there when a job comes.
        history = History()
        summary = encode(job, lambda progress: watch.note(progress.num_done), history=history)
        cpu_shares = watch.cpu_shares()
    if summary.num_encoded != summary.num_photos:
        raise PhotoarkError(f"{summary.num_failed} of {summary.num_photos} photos failed: {summary.failures[:1]}")
    alive = history.actors.values()
    running_s = max(actor.last_s for actor in alive) - min(actor.first_s for actor in alive)
    done, alive_s = history.steady(MARGIN_S)
    megapixels = summary.num_pixels / 1e6
    return {
        "actors": num_actors,
        "actors_that_worked": len(alive),
        "num_photos": summary.num_photos,
        "photos_per_s": round(summary.num_photos / running_s, 3),
        "megapixels_per_s": round(megapixels / running_s, 3),
        "steady_s": round(alive_s / len(alive), 1),
        # Of the time in which all actors are there: what a codec waits for then is the pipeline's fault.
        "efficiency": round(done.pixels / 1e6 * s_per_megapixel / alive_s, 4) if alive_s else None,
        "codec_busy_ratio": round(history.steady_busy_ratio(MARGIN_S), 4),
        "efficiency_first_block_to_last": round(megapixels * s_per_megapixel / num_actors / running_s, 4),
        "driver_cpu_share": cpu_shares,
        "num_commits": sum(one.commits for one in history.bins),
        "commit_share": round(history.stages_s.get("commit", 0.0) / running_s, 4),
        # Since the job began, but for Ray's own. A simulated codec takes no time to load.
        "start_s": {
            "ray": round(ray_s, 2),
            "first_actor": round(min(actor.first_s for actor in alive), 2),
            "last_actor": round(max(actor.first_s for actor in alive), 2),
            "first_commit": round(history.first_commit_s or 0.0, 2),
        },
        "stages_s": {stage: round(took_s, 2) for stage, took_s in history.stages_s.items()},
    }  # fmt: skip


def _commit_costs() -> dict[str, float]:
    """Of a commit to an archive on the store: in itself, for each of its rows, and for each shard that the log names."""
    from pipeline.archive.shard_writer import Shard
    from pipeline.archive.writer import ArchiveWriter

    rows = _rows()
    archive = ArchiveWriter.open_or_create(f"{new_bucket()}/archive")

    def commits_s(name: str, number: int) -> tuple[float, float]:
        """Time, and CPU time, which other work on the machine changes less."""
        took_s, cpu_s = [], []
        for i in range(NUM_COMMITS):
            batch = [replace(row, key=f"{name}/{i:04d}/{row.key}") for row in rows[:number]]
            start_s, cpu_start_s = time.perf_counter(), time.process_time()
            archive.commit(batch)
            took_s.append(time.perf_counter() - start_s)
            cpu_s.append(time.process_time() - cpu_start_s)
        return median(took_s), median(cpu_s)

    (one_s, one_cpu_s), (_, many_cpu_s) = commits_s("one", 1), commits_s("many", COMMIT_ROWS)
    # Which the log alone knows; their keys lie elsewhere, so that nobody looks for them.
    named = [f"shards/{i:06d}" for i in range(NUM_SHARDS)]
    others = [
        Shard(
            path=f"photos-{i:064x}.parquet", size_bytes=1 << 27, num_rows=8000, modified_ms=0,
            statistics=json.dumps({"numRecords": 8000, "minValues": {"key": key}, "maxValues": {"key": key}}),
        )
        for i, key in enumerate(named)
    ]  # fmt: skip
    archive.log.swap([], others)
    _, full_cpu_s = commits_s("full", 1)
    return {
        "commit_row_s": max(0.0, many_cpu_s - one_cpu_s) / (COMMIT_ROWS - 1),
        "commit_s": one_s,
        "commit_per_shard_s": max(0.0, full_cpu_s - one_cpu_s) / NUM_SHARDS,
    }


def _rows() -> list[EncodedPhoto]:
    from pipeline.records import EncodedPhoto, Outcome

    return [
        EncodedPhoto(
            key=f"{i:06d}.jpg", image=os.urandom(15_000), codec="simulated", model="0" * 16, outcome=Outcome.ENCODED,
            format="JPEG", width=1790, height=1340, mode="RGB", orientation=1, source_uri=f"s3://bench/photos/{i:06d}.jpg",
            source_bytes=1_000_000, source_sha256="0" * 64, bpp=0.05,
        )
        for i in range(COMMIT_ROWS)
    ]  # fmt: skip


def _row_s(rate: dict[str, Any] | None) -> float:
    """What a row costs the driver before its commit: as in the run at a given rate or, without one, without Ray's part."""
    if rate is not None:
        cpu = rate["driver_cpu_share"]
        return float(cpu["rows"] + cpu["ray_data"]) / float(rate["photos_per_s"])
    from pipeline.records import encoded_from_table, encoded_to_table

    table = encoded_to_table(_rows())
    start_s = time.process_time()
    encoded_from_table(table)
    return (time.process_time() - start_s) / COMMIT_ROWS


def _model(costs: Costs) -> list[dict[str, Any]]:
    from jobs.bench.simulation import Setup, simulate

    setups = [
        Setup(num_gpus=gpus, known_rows=rows, commit_interval_s=interval_s, num_drivers=drivers)
        for rows in ROWS
        for drivers, interval_s in ((1, 5.0), (1, 60.0), (10, 60.0), (100, 60.0))
        for gpus in GPUS
        if gpus >= drivers
    ]
    return [asdict(setup) | asdict(simulate(costs, setup, seconds=300)) for setup in setups]


def _plot(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, rows in zip(panels, ROWS, strict=True):
        for drivers, interval_s in ((1, 5.0), (1, 60.0), (10, 60.0), (100, 60.0)):
            line = [
                row for row in result["model"]
                if (row["known_rows"], row["num_drivers"], row["commit_interval_s"]) == (rows, drivers, interval_s)
            ]  # fmt: skip
            label = f"{drivers} driver{'s' * (drivers > 1)}, a commit every {interval_s:g} s"
            axes.plot([row["num_gpus"] for row in line], [row["efficiency"] for row in line], marker="o", label=label)
        axes.set(xscale="log", xlabel="GPUs", ylabel="efficiency", title=f"{rows:.0e} rows in the archive", ylim=(0, 1.05))
    figure.axes[0].legend()
    figure.suptitle(f"Simulated; a GPU takes {result['ms_per_megapixel']:g} ms a megapixel")
    figure.savefig(path, dpi=100)
