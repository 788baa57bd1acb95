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
    DefaultExcludes,
    Device,
    Exclude,
    Gate,
    Include,
    KeepOriginal,
    Ladder,
    LogFile,
    LogFormat,
    MaxCost,
    MaxGpus,
    MaxHours,
    PhotosOnly,
    Price,
    Quality,
    RayAddress,
    Report,
    StripGps,
    Weights,
)
from jobs.run import check_limits, stopped, supervised
from jobs.summaries import INCOMPLETE, announce, show_encoded, show_estimate

if TYPE_CHECKING:
    from jobs.settings import Settings
    from pipeline.encode.job import EncodeJob


def encode(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder, bucket or prefix of photos; never changed.")],
    archive: ArchiveUrl,
    include: Include = None,
    exclude: Exclude = None,
    photos_only: PhotosOnly = None,
    default_excludes: DefaultExcludes = None,
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
    recode: Annotated[
        bool, typer.Option("--recode", help="Encode again what is stored by another codec, quality or other option than now.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is to do, try a few photos, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Encode every photo that the archive does not hold, or holds as it was before it changed (by tag, or size and time)."""
    from jobs.settings import load_settings

    settings = load_settings(
        config, include=include, exclude=exclude, photos_only=photos_only, default_excludes=default_excludes,
        codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address, max_gpus=max_gpus, max_hours=max_hours, max_cost=max_cost,
        price_per_hour=price, log_format=log_format, log_file=log_file,
    )  # fmt: skip
    write_logs(settings)
    check_limits(settings)

    from pipeline.encode.run import encode as run

    job = replace(encode_job(source, archive, settings), checksum=checksum, dedupe=dedupe, recode=recode)
    if dry_run:
        _estimate(job, as_json=as_json)
        return

    announce(job, as_json=as_json)
    with supervised(settings, verb="encoding", as_json=as_json, report=report) as job_of:
        summary = run(
            job, job_of.on_progress, on_wait=job_of.on_wait, history=job_of.history, should_stop=job_of.should_stop,
            connect=job_of.connect,
        )  # fmt: skip
        job_of.finish(summary, job)
    if as_json:
        typer.echo(json.dumps({"event": "summary", **asdict(summary)}))
    else:
        show_encoded(summary)
    if summary.stopped:
        num_done = summary.num_new + summary.num_changed + summary.num_recoded + summary.num_updated + summary.num_skipped
        raise stopped(summary.num_photos - num_done - summary.num_stored_meanwhile)
    if not summary.is_complete:
        raise typer.Exit(INCOMPLETE)


def encode_job(source: str, archive: str, settings: Settings) -> EncodeJob:
    """The job that `settings` describe; `retry` and `verify --repair` encode the same way."""
    from pipeline.codecs.points import parse_ladder
    from pipeline.encode.job import EncodeJob
    from pipeline.quality.gate import NO_GATE, parse_gate

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
        selection=settings.selection(),
        commit_interval_s=settings.commit_interval_s,
        pool=settings.pool_options(),
    )


def _estimate(job: EncodeJob, *, as_json: bool) -> None:
    from pipeline.encode.estimate import estimate

    result = estimate(job)
    if as_json:
        typer.echo(json.dumps({"event": "dry_run", **asdict(result)}))
        return
    show_estimate(result)
