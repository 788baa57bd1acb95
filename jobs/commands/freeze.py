"""`photoark freeze`: a training checkpoint in, an exact checkpoint out, and the rate it cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import Overwrite


def freeze(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint, as `photoark train` leaves it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, *.safetensors.")],
    calibration: Annotated[list[Path], typer.Option(help="Photos to calibrate on: tars, folders, single photos.")],
    num_photos: Annotated[int, typer.Option(help="How many of them to use, spread evenly.")] = 32,
    last: Annotated[bool, typer.Option("--last", help="The last weights, not their average.")] = False,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Make the entropy path exact: integer weights, tables and scales that decode the same everywhere."""
    from jobs.outputs import check_output

    check_output(out, overwrite=overwrite)

    from pipeline.training.data import load_photos
    from pipeline.training.freeze import freeze as run

    photos = load_photos(calibration, min_side=1)
    chosen = photos[:: max(1, len(photos) // num_photos)][:num_photos]
    report = run(checkpoint, out, chosen, averaged=not last)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    typer.echo(f"{out}: {report.num_bytes / 2**20:.1f} MiB, fingerprint {report.fingerprint}")
    typer.echo(
        f"rate on {report.num_photos} photos: {report.float_bpp:.4f} bpp in float, {report.exact_bpp:.4f} bpp exact "
        f"({report.rate_cost_percent:+.2f}%), {report.stream_bpp:.4f} bpp with containers"
    )
