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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what failed, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode again the photos whose rows say that they failed. Exit code 3: some of them still do."""
    if dry_run:
        _list(source, archive, as_json=as_json)
        return
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


def _list(source: str, archive: str, *, as_json: bool) -> None:
    from pipeline.archive.commit import Archive
    from pipeline.sources.folder import list_photos
    from pipeline.stages.retry import failures

    there = {photo.key for photo in list_photos(source)}
    reasons = failures(Archive.open(archive))
    gone = sorted(reasons.keys() - there)
    if as_json:
        typer.echo(json.dumps({"event": "dry_run", "failures": reasons, "gone": gone}))
        return
    typer.echo(
        f"{len(reasons)} failed, {len(reasons) - len(gone)} of which would be tried again; {len(gone)} gone from the source"
    )
    for key, reason in reasons.items():
        typer.echo(f"{'gone' if key in gone else 'failed'}: {key}: {reason}")
