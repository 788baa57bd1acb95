"""`photoark retry`: encode again what failed."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.encode import encode_job
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
from jobs.phrases import say, show
from jobs.run import check_limits, stopped, supervised
from jobs.summaries import INCOMPLETE, announce, show_retried

if TYPE_CHECKING:
    from pipeline.sources.selection import Selection


def retry(
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what failed, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode again the photos whose rows say that they failed. Exit code 3: some of them still do."""
    from jobs.settings import load_settings

    settings = load_settings(
        config, include=include, exclude=exclude, photos_only=photos_only, default_excludes=default_excludes,
        codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address, max_gpus=max_gpus, max_hours=max_hours, max_cost=max_cost,
        price_per_hour=price, log_format=log_format, log_file=log_file,
    )  # fmt: skip
    write_logs(settings)
    check_limits(settings)
    if dry_run:
        _list(source, archive, settings.selection(), as_json=as_json)
        return

    from pipeline.encode.retry import retry as run

    job = encode_job(source, archive, settings)
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
        show_retried(summary)
    if summary.stopped:
        raise stopped(summary.num_photos - summary.num_skipped - summary.num_encoded - summary.num_kept - summary.num_failed)
    if not summary.is_complete:
        raise typer.Exit(INCOMPLETE)


def _list(source: str, archive: str, selection: Selection, *, as_json: bool) -> None:
    from pipeline.archive.reader import Archive
    from pipeline.encode.retry import failures
    from pipeline.sources.folder import list_source

    listing = list_source(source, selection)
    there = {photo.key for photo in listing.photos}
    found = failures(Archive.open(archive))
    reasons = {key: reason for key, reason in found.items() if key in there or listing.lacks(key)}
    gone = sorted(reasons.keys() - there)
    if as_json:
        typer.echo(json.dumps({"event": "dry_run", "failures": reasons, "gone": gone}))
        return
    show(
        (len(reasons), "file had failed", "files had failed"),
        (len(reasons) - len(gone), "of them would be tried again", "of them would be tried again"),
        (len(gone), "of them is gone from the source", "of them are gone from the source"),
        *([] if reasons else ["nothing to retry: every file is stored"]),
    )
    for key, reason in reasons.items():
        say(f"{'gone' if key in gone else 'failed'}: {key}: {reason}")
