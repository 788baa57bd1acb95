"""`photoark bench flat`: whether the memory of a job's driver, and of Ray's object store, grows with the rows that it makes."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import Overwrite
from jobs.outputs import check_output
from pipeline.errors import PhotoarkError, SettingError

if TYPE_CHECKING:
    from jobs.bench.driver_watch import Sample

MEGAPIXELS = 0.003
"""Small, so that the run is short: how large a photo is, the driver does not see."""
_SETTLED = 0.1
"""Share of the rows after which all that is loaded once is there."""
_PARTS = 10


def bench_flat(
    rows: Annotated[int, typer.Option(help="Photos to encode.")] = 100_000,
    actors: Annotated[int, typer.Option(help="Simulated GPUs.")] = 2,
    rows_per_s: Annotated[
        float, typer.Option(help="What they do together, where that is less than reading could. 0: they take no time.")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="File for the JSON line.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Encode many tiny photos with a codec that only waits, and watch the driver's memory; the last line is a JSON object."""
    if rows < 1 or actors < 1 or rows_per_s < 0:
        raise SettingError("--rows and --actors are at least 1, and --rows-per-s is not negative")
    if out is not None:
        check_output(out, overwrite=overwrite)
    with tempfile.TemporaryDirectory() as folder:
        samples, elapsed_s = _run(Path(folder), rows, actors, rows_per_s)
    # Of each tenth the last look.
    tenths = [[one for one in samples if one.num_done <= rows * part / _PARTS][-1] for part in range(1, _PARTS + 1)]
    for one in tenths:
        typer.echo(
            f"{one.num_done:8d} rows after {one.at_s:6.1f} s: driver {one.driver_bytes / 2**20:7.1f} MiB, "
            f"object store {one.store_bytes / 2**20:6.1f} MiB"
        )
    settled = [one for one in samples if one.num_done >= rows * _SETTLED]
    slopes = {name: _slope(settled, name) for name in ("driver_bytes", "store_bytes")}
    typer.echo(
        f"from {_SETTLED:.0%} of {rows} rows on, for each row more: driver {slopes['driver_bytes']:.0f} bytes, object store "
        f"{slopes['store_bytes']:.0f} bytes; {rows / elapsed_s:.0f} rows/s"
    )
    result = {
        "rows": rows, "actors": actors, "wanted_rows_per_s": rows_per_s, "rows_per_s": round(rows / elapsed_s, 1),
        "samples": [asdict(one) for one in tenths],
        "bytes_per_row": {name: round(slope, 1) for name, slope in slopes.items()},
    }  # fmt: skip
    line = json.dumps(result)
    if out is not None:
        out.write_text(line + "\n")
    typer.echo(line)


def _run(folder: Path, rows: int, actors: int, rows_per_s: float) -> tuple[list[Sample], float]:
    from cluster.connect import connected
    from jobs.bench.driver_watch import watched_driver
    from jobs.bench.simulated_codec import NAME, SimulatedCodecs, SimulatedPixels
    from jobs.bench.store import photo
    from pipeline.codecs.points import CodecAt
    from pipeline.encode.job import EncodeJob
    from pipeline.encode.run import encode

    data = photo(MEGAPIXELS)
    s_per_megapixel = actors / rows_per_s / MEGAPIXELS if rows_per_s else 0.0
    for i in range(rows):
        path = folder / "photos" / f"{i // 1000:04d}" / f"{i % 1000:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    job = EncodeJob(
        source=str(folder / "photos"), archive=str(folder / "archive"), ladder=(CodecAt(NAME),),
        codecs=SimulatedCodecs(s_per_megapixel), read_pixels=SimulatedPixels(0.0, 0.0),
    )  # fmt: skip
    with connected(num_gpus=actors), watched_driver() as watch:
        summary = encode(job, lambda progress: watch.note(progress.num_done))
        samples = list(watch.samples)  # while it ran
    if summary.num_encoded != rows:
        raise PhotoarkError(f"{summary.num_failed} of {rows} photos failed: {summary.failures[:1]}")
    return samples, summary.elapsed_s


def _slope(samples: list[Sample], name: str) -> float:
    """Bytes a row, by a line through the samples."""
    import numpy as np

    done, used = [one.num_done for one in samples], [getattr(one, name) for one in samples]
    return float(np.polyfit(done, used, 1)[0]) if len(set(done)) > 1 else 0.0
