"""`photoark retry`: encode again what failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.encode import encode_job
from jobs.options import (
    ArchiveUrl,
    AsJson,
    Codec,
    Config,
    Device,
    Gate,
    KeepOriginal,
    Ladder,
    Quality,
    RayAddress,
    StripGps,
    Weights,
)


def retry(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, bucket or prefix of photos; never changed.")],
    archive: ArchiveUrl,
    codec: Codec = None,
    quality: Quality = None,
    gate: Gate = None,
    ladder: Ladder = None,
    keep_original: KeepOriginal = None,
    strip_gps: StripGps = None,
    device: Device = None,
    weights: Weights = None,
    ray_address: RayAddress = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Encode again the photos whose rows say that they failed. Exit code 3: some of them still do."""
    from jobs.settings import load_settings

    settings = load_settings(
        config, codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address,
    )  # fmt: skip

    from cluster.connect import connected
    from jobs.progress import shown
    from pipeline.stages.retry import retry as run

    job = encode_job(source, archive, settings)
    with connected(settings.ray_address), shown(verb="encoding", as_json=as_json) as on_progress:
        summary = run(job, on_progress)
    if as_json:
        typer.echo(json.dumps({"event": "summary", **asdict(summary)}))
    else:
        typer.echo(
            f"{summary.num_photos} had failed: {summary.num_encoded} encoded, {summary.num_kept} kept as they are, "
            f"{summary.num_failed} failed again, {summary.num_skipped} gone from the source"
        )
        for key, reason in summary.failures:
            typer.echo(f"failed: {key}: {reason}", err=True)
    if summary.num_failed or summary.num_skipped:
        raise typer.Exit(3)
