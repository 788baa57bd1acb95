"""`photoark encode`: what the archive lacks of a source; the same command again goes on where it stopped."""

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
    Device,
    Gate,
    KeepOriginal,
    Ladder,
    Quality,
    RayAddress,
    StripGps,
    Weights,
)

if TYPE_CHECKING:
    from jobs.settings import Settings
    from pipeline.stages.encode import EncodeJob


def encode(
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is to do, try a few photos, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encode every photo that the archive does not hold."""
    from jobs.settings import load_settings

    settings = load_settings(
        config, codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address,
    )  # fmt: skip

    from pipeline.stages.encode import encode as run

    job = encode_job(source, archive, settings)
    if dry_run:
        _estimate(job, as_json=as_json)
        return

    from cluster.connect import connected
    from jobs.progress import shown

    with connected(settings.ray_address), shown(verb="encoding", as_json=as_json) as on_progress:
        summary = run(job, on_progress)
    if as_json:
        typer.echo(json.dumps({"event": "summary", **asdict(summary)}))
    else:
        ratio = summary.bytes_in / summary.bytes_out if summary.bytes_out else 0.0
        typer.echo(
            f"{summary.num_photos} photos: {summary.num_encoded} encoded, {summary.num_kept} kept as they are, "
            f"{summary.num_failed} failed, {summary.num_skipped} there already; {summary.bytes_in / 1e6:.2f} MB became "
            f"{summary.bytes_out / 1e6:.2f} MB ({ratio:.1f} times smaller) in {summary.elapsed_s:.1f} s"
        )
        for key, reason in summary.failures:
            typer.echo(f"failed: {key}: {reason}", err=True)
    if summary.num_failed:
        raise typer.Exit(3)


def encode_job(source: str, archive: str, settings: Settings) -> EncodeJob:
    """The job that `settings` describe; `retry` and `verify --repair` encode the same way."""
    from pipeline.codecs.points import parse_ladder
    from pipeline.pixels.probe import PixelLimits
    from pipeline.quality.gate import NO_GATE, parse_gate
    from pipeline.stages.encode import EncodeJob

    return EncodeJob(
        source=source,
        archive=archive,
        codec=settings.codec,
        options=settings.codec_options(),
        ladder=parse_ladder(settings.ladder) if settings.ladder else (),
        gate=parse_gate(settings.gate) if settings.gate else NO_GATE,
        lpips_weights=settings.lpips_weights,
        dists_weights=settings.dists_weights,
        keep_original=settings.keep_original,
        strip_gps=settings.strip_gps,
        limits=PixelLimits(max_pixels=settings.max_pixels),
        commit_interval_s=settings.commit_interval_s,
    )


def _estimate(job: EncodeJob, *, as_json: bool) -> None:
    from pipeline.stages.estimate import estimate

    result = estimate(job)
    if as_json:
        typer.echo(json.dumps({"event": "dry_run", **asdict(result)}))
        return
    typer.echo(
        f"{result.num_photos} files, {result.num_photos - result.num_todo} there already; "
        f"to do: {result.num_todo} ({result.bytes_todo / 1e6:.2f} MB)"
    )
    if result.num_sampled:
        typer.echo(
            f"expected from {result.num_sampled} of them, {result.num_sample_failures} of which failed: "
            f"{result.expected_bytes / 1e6:.2f} MB, {result.expected_s:.0f} s with one process of this machine"
        )
