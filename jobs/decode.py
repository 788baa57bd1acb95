"""`photoark decode`: photos of an archive as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, AsJson, Config, Device, Include, Original, RayAddress, Weights


def decode(
    archive: ArchiveUrl,
    destination: Annotated[str, typer.Argument(metavar="DST", help="Folder, or bucket and prefix, for the files.")],
    include: Include = None,
    format: Annotated[str | None, typer.Option(help="Format of every file, such as PNG; the source's by default.")] = None,
    original: Original = False,
    device: Device = None,
    weights: Weights = None,
    ray_address: RayAddress = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Restore all photos, or those that match --include."""
    from cluster.connect import connected
    from jobs.progress import shown
    from jobs.settings import load_settings
    from pipeline.archive.commit import Archive
    from pipeline.errors import SettingError
    from pipeline.stages.decode import DecodeJob
    from pipeline.stages.decode import decode as run

    if original and format:
        raise SettingError("--original is the file as it is, --format another one: leave one of them out")
    settings = load_settings(config, device=device, weights=weights, ray_address=ray_address)
    Archive.open(archive)  # a wrong path is told before Ray starts
    job = DecodeJob(
        archive=archive,
        destination=destination,
        include=include,
        format=format.upper() if format else None,
        original=original,
        options=settings.codec_options(),
        pool=settings.pool_options(),
    )
    with connected(settings.ray_address), shown(verb="decoding", as_json=as_json) as on_progress:
        summary = run(job, on_progress)
    if as_json:
        typer.echo(json.dumps({"event": "summary", **asdict(summary)}))
    else:
        typer.echo(
            f"{summary.num_restored} of {summary.num_photos} photos restored, {summary.num_failed} failed; "
            f"{summary.bytes_out / 1e6:.2f} MB in {summary.elapsed_s:.1f} s"
        )
        for key, reason in summary.failures:
            typer.echo(f"failed: {key}: {reason}", err=True)
    if summary.num_failed:
        raise typer.Exit(3)
