"""`photoark bench scaling`: the pipeline with simulated GPUs and real I/O, what its driver costs, and where it saturates."""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import SettingError

if TYPE_CHECKING:
    from cluster.simulation import Costs

MEGAPIXELS = (0.2,) * 6 + (0.5,) * 6 + (1.0,) * 6 + (2.0,) * 4 + (4.0,) * 3 + (8.0,) * 2 + (12.0, 24.0)
"""A mix of sizes such as phones and cameras leave behind; 2.4 on average."""
MARGIN_S = 2.0
COMMIT_ROWS = 500
NUM_COMMITS = 24
GPUS = (1, 10, 100, 300, 1000)
ROWS = (0, 10**6, 10**8, 10**9)


def bench_scaling(
    actors: Annotated[str, typer.Option(help="Simulated GPUs, one actor each; one run a number.")] = "1,2,4,8",
    ms_per_megapixel: Annotated[
        float, typer.Option(help="What the simulated GPU takes; 150 is the paper's figure for the full model on an A100.")
    ] = 150.0,
    seconds: Annotated[float, typer.Option(help="How long each run should keep its GPUs busy.")] = 30.0,
    out: Annotated[Path | None, typer.Option(help="Folder for scaling.json and scaling.png.")] = None,
) -> None:
    """Measure efficiency against the ideal, and model 100 and 1,000 GPUs from it; the last line is a JSON object."""
    numbers = [int(part) for part in actors.split(",")]
    s_per_megapixel = ms_per_megapixel / 1000
    photos = _photos()
    with _s3_server():
        runs = [_run(photos, number, s_per_megapixel, seconds) for number in numbers]
        driver = _driver_costs()
    from cluster.simulation import Costs

    mean_megapixels = sum(MEGAPIXELS) / len(MEGAPIXELS)
    costs = Costs(photo_s=mean_megapixels * s_per_megapixel, **driver)
    model = _model(costs)
    typer.echo(f"a simulated GPU takes {ms_per_megapixel:g} ms a megapixel; {os.cpu_count()} cores do the rest for all of them")
    for run in runs:
        typer.echo(
            f"{run['actors']:3d} GPUs: {run['photos_per_s']:7.2f} photos/s, {run['megapixels_per_s']:7.2f} MP/s; in "
            f"steady state, efficiency {run['efficiency'] or 0:.1%}, codecs busy {run['codec_busy_ratio']:.1%}; driver "
            f"{run['driver_cpu_share']:.1%} of a core, commits {run['commit_share']:.1%} of the time; first commit after "
            f"{run['first_commit_s']:.1f} s"
        )
    typer.echo(
        f"driver: {costs.row_s * 1e6:.0f} us a row, {costs.commit_s * 1e3:.0f} ms a commit and "
        f"{costs.commit_per_known_row_s * 1e9:.0f} ns more for each row that the archive holds"
    )
    for row in model:
        typer.echo(
            f"{row['num_gpus']:5d} GPUs, {row['num_drivers']:3d} drivers, {row['known_rows']:.0e} rows there, a commit every "
            f"{row['commit_interval_s']:g} s: {row['photos_per_s']:9.1f} photos/s, efficiency {row['efficiency']:.0%}, "
            f"driver busy {row['driver_busy']:.0%}"
        )
    result = {
        "ms_per_megapixel": ms_per_megapixel, "cores": os.cpu_count(), "runs": runs, "costs": asdict(costs), "model": model,
    }  # fmt: skip
    line = json.dumps(result)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "scaling.json").write_text(line + "\n")
        _plot(result, out / "scaling.png")
    typer.echo(line)


def _photos() -> list[bytes]:
    """One JPEG for each of `MEGAPIXELS`: soft shapes, which compress as photos do."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    photos: list[bytes] = []
    for i, megapixels in enumerate(MEGAPIXELS):
        if i and MEGAPIXELS[i - 1] == megapixels:
            photos.append(photos[-1])
            continue
        height = int((megapixels * 1e6 * 3 / 4) ** 0.5)
        small = random.integers(0, 256, (48, 64, 3), np.uint8)
        data = io.BytesIO()
        Image.fromarray(small).resize((height * 4 // 3, height), Image.Resampling.BICUBIC).save(data, "JPEG", quality=85)
        photos.append(data.getvalue())
    return photos


@contextmanager
def _s3_server() -> Iterator[None]:
    """moto's server in a process of its own, and the environment that leads to it."""
    if find_spec("moto") is None:
        raise SettingError("bench scaling needs an S3 server to talk to: pip install 'photoark[dev]'")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {
        "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _bucket() -> str:
    import boto3

    name = f"bench-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def _run(photos: list[bytes], num_actors: int, s_per_megapixel: float, seconds: float) -> dict[str, Any]:
    """The whole pipeline on `num_actors` simulated GPUs."""
    from cluster.connect import connected
    from jobs.simulated_codec import NAME, SimulatedCodecs
    from pipeline.codecs.points import CodecAt
    from pipeline.stages.encode import EncodeJob, encode
    from pipeline.stages.history import History
    from pipeline.storage import Storage

    bucket = _bucket()
    source = Storage(f"{bucket}/photos")
    rounds = max(1, round(seconds * num_actors / (sum(MEGAPIXELS) * s_per_megapixel)))
    for i in range(rounds):
        for j, data in enumerate(photos):
            # Sizes mixed within a block, and another order each time.
            source.write(f"{i:05d}-{(7 * j + 3 * i) % len(photos):02d}.jpg", data)
    job = EncodeJob(
        source=source.url, archive=f"{bucket}/archive", ladder=(CodecAt(NAME),), codecs=SimulatedCodecs(s_per_megapixel)
    )
    with connected(num_gpus=num_actors):
        usage = resource.getrusage(resource.RUSAGE_SELF)
        before_s = usage.ru_utime + usage.ru_stime
        # Not the time that Ray took to start: a cluster is there when a job comes.
        history = History()
        summary = encode(job, history=history)
        usage = resource.getrusage(resource.RUSAGE_SELF)
    if summary.num_encoded != summary.num_photos:
        raise SettingError(f"{summary.num_failed} of {summary.num_photos} photos failed: {summary.failures[:1]}")
    running_s = max(actor.last_s for actor in history.actors.values()) - min(actor.first_s for actor in history.actors.values())
    done, alive_s = history.steady(MARGIN_S)
    return {
        "actors": num_actors,
        "num_photos": summary.num_photos,
        "photos_per_s": round(summary.num_photos / running_s, 3),
        "megapixels_per_s": round(summary.num_pixels / 1e6 / running_s, 3),
        # Of the time in which all actors are there: what a codec waits for then is the pipeline's fault.
        "efficiency": round(done.pixels / 1e6 * s_per_megapixel / alive_s, 4) if alive_s else None,
        "codec_busy_ratio": round(history.steady_busy_ratio(MARGIN_S), 4),
        "efficiency_first_block_to_last": round(summary.num_pixels / 1e6 * s_per_megapixel / num_actors / running_s, 4),
        "driver_cpu_share": round((usage.ru_utime + usage.ru_stime - before_s) / summary.elapsed_s, 4),
        "commit_share": round(history.stages_s.get("commit", 0.0) / running_s, 4),
        "first_commit_s": round(history.first_commit_s or 0.0, 2),
        "stages_s": {stage: round(took_s, 2) for stage, took_s in history.stages_s.items()},
    }


def _driver_costs() -> dict[str, float]:
    """Of a row and of a commit, on an archive that grows: a line through the times that its commits took."""
    import numpy as np

    from pipeline.archive.commit import Archive
    from pipeline.records import EncodedPhoto, Outcome, encoded_from_table, encoded_to_table

    rows = [
        EncodedPhoto(
            key=f"{i:09d}.jpg", image=os.urandom(15_000), codec="simulated", model="0" * 16, outcome=Outcome.ENCODED,
            format="JPEG", width=1790, height=1340, mode="RGB", orientation=1, source_uri=f"s3://bench/photos/{i:09d}.jpg",
            source_bytes=1_000_000, source_sha256="0" * 64, bpp=0.05,
        )
        for i in range(COMMIT_ROWS)
    ]  # fmt: skip
    table = encoded_to_table(rows)
    start_s = time.perf_counter()
    encoded_from_table(table)
    gather_s = (time.perf_counter() - start_s) / COMMIT_ROWS
    archive = Archive.open_or_create(f"{_bucket()}/archive")
    known, took_s = [], []
    for i in range(NUM_COMMITS):
        # One large commit in between, so that the line has some length.
        number = 40 * COMMIT_ROWS if i % 4 == 3 else COMMIT_ROWS
        batch = [replace(rows[j % COMMIT_ROWS], key=f"{i:04d}/{j:06d}.jpg") for j in range(number)]
        if number > COMMIT_ROWS:
            batch = [replace(row, image=b"x") for row in batch]
        start_s = time.perf_counter()
        archive.commit(batch)
        if number == COMMIT_ROWS:
            took_s.append(time.perf_counter() - start_s)
            known.append(sum(max(shard.num_rows, 0) for shard in archive.shards()))
    slope, level = np.polyfit(known, took_s, 1)
    small = rows[:1]
    start_s = time.perf_counter()
    for i in range(5):
        archive.commit([replace(small[0], key=f"small/{i}.jpg")])
    one_s = (time.perf_counter() - start_s) / 5 - max(0.0, slope) * known[-1]
    row_s = gather_s + max(0.0, float(level) - one_s) / COMMIT_ROWS
    return {"row_s": row_s, "commit_s": max(one_s, 0.0), "commit_per_known_row_s": max(float(slope), 0.0)}


def _model(costs: Costs) -> list[dict[str, Any]]:
    from cluster.simulation import Setup, simulate

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
