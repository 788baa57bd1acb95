"""`photoark encode`: what the archive lacks of a source, or has of an earlier version; again, it goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.logs import write_logs
from jobs.options import (
    ArchiveUrl,
    AsJson,
    Codec,
    Config,
    Device,
    Gate,
    KeepOriginal,
    Ladder,
    LogFile,
    LogFormat,
    MaxCost,
    MaxGpus,
    MaxHours,
    Price,
    Quality,
    RayAddress,
    Report,
    StripGps,
    Weights,
)
from jobs.supervision import check_limits, show_failures, stopped, supervised

if TYPE_CHECKING:
    from jobs.settings import Settings
    from pipeline.stages.encode import EncodeJob
    from pipeline.stages.job import JobSummary


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
    max_gpus: MaxGpus = None,
    max_hours: MaxHours = None,
    max_cost: MaxCost = None,
    price: Price = None,
    report: Report = None,
    log_format: LogFormat = None,
    log_file: LogFile = None,
    config: Config = None,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Read photos that look unchanged too, and let their SHA-256 decide.")
    ] = False,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Store one stream for all photos of the same bytes; the others' rows refer to it.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is to do, try a few photos, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encode every photo that the archive does not hold, or holds as it was before it changed (by tag, or size and time)."""
    from jobs.settings import load_settings

    settings = load_settings(
        config, codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address, max_gpus=max_gpus, max_hours=max_hours, max_cost=max_cost,
        price_per_hour=price, log_format=log_format, log_file=log_file,
    )  # fmt: skip
    write_logs(settings)
    check_limits(settings)

    from pipeline.stages.encode import encode as run

    job = replace(encode_job(source, archive, settings), checksum=checksum, dedupe=dedupe)
    if dry_run:
        _estimate(job, as_json=as_json)
        return

    with supervised(settings, verb="encoding", as_json=as_json, report=report) as job_of:
        summary = run(job, job_of.on_progress, history=job_of.history, should_stop=job_of.should_stop)
        job_of.finish(summary)
    if as_json:
        typer.echo(json.dumps({"event": "summary", **asdict(summary)}))
    else:
        ratio = summary.bytes_in / summary.bytes_out if summary.bytes_out else 0.0
        typer.echo(
            f"{summary.num_photos} photos: {summary.num_encoded} encoded, {summary.num_kept} kept as they are, "
            f"{summary.num_failed} failed, {summary.num_skipped} there already{_counted(summary)}; "
            f"{summary.bytes_in / 1e6:.2f} MB became "
            f"{summary.bytes_out / 1e6:.2f} MB ({ratio:.1f} times smaller) in {summary.elapsed_s:.1f} s"
        )
        show_failures(summary.failures)
    if summary.stopped:
        left = summary.num_photos - summary.num_new - summary.num_changed - summary.num_updated - summary.num_skipped
        raise stopped(left)
    if summary.num_failed:
        raise typer.Exit(3)


def _counted(summary: JobSummary) -> str:
    """What most jobs have none of."""
    counts = {
        "changed since": summary.num_changed,
        "changed in name or time alone": summary.num_updated,
        "sharing a stream": summary.num_shared,
        "in the archive alone": summary.num_gone,
    }
    return "".join(f", {count} {what}" for what, count in counts.items() if count)


def encode_job(source: str, archive: str, settings: Settings) -> EncodeJob:
    """The job that `settings` describe; `retry` and `verify --repair` encode the same way."""
    from pipeline.codecs.points import parse_ladder
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
        limits=settings.limits(),
        commit_interval_s=settings.commit_interval_s,
        pool=settings.pool_options(),
    )


def _estimate(job: EncodeJob, *, as_json: bool) -> None:
    from pipeline.stages.estimate import estimate

    result = estimate(job)
    if as_json:
        typer.echo(json.dumps({"event": "dry_run", **asdict(result)}))
        return
    typer.echo(
        f"{result.num_photos} files, {result.num_photos - result.num_todo} there already; to do: {result.num_todo} "
        f"({result.num_todo - result.num_changed} new, {result.num_changed} changed; {result.bytes_todo / 1e6:.2f} MB)"
    )
    if result.num_sampled:
        typer.echo(
            f"expected from {result.num_sampled} of them, {result.num_sample_failures} of which failed: "
            f"{result.expected_bytes / 1e6:.2f} MB, {result.expected_s:.0f} s with one process of this machine"
        )
