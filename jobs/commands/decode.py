"""`photoark decode`: photos of an archive as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.logs import write_logs
from jobs.options import (
    ArchiveUrl,
    AsJson,
    Config,
    Device,
    Exclude,
    Include,
    LogFile,
    LogFormat,
    MaxCost,
    MaxGpus,
    MaxHours,
    Original,
    Overwrite,
    Price,
    RayAddress,
    Weights,
)
from jobs.run import check_limits, stopped, supervised
from jobs.summaries import INCOMPLETE, show_decoded


def decode(
    archive: ArchiveUrl,
    destination: Annotated[str, typer.Argument(metavar="DST", help="Folder, or bucket and prefix, for the files.")],
    include: Include = None,
    exclude: Exclude = None,
    format: Annotated[str | None, typer.Option(help="Format of every file, such as PNG; the source's by default.")] = None,
    original: Original = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Leave alone what the same command wrote before; a limit says so too."),
    ] = False,
    overwrite: Overwrite = False,
    device: Device = None,
    weights: Weights = None,
    ray_address: RayAddress = None,
    max_gpus: MaxGpus = None,
    max_hours: MaxHours = None,
    max_cost: MaxCost = None,
    price: Price = None,
    log_format: LogFormat = None,
    log_file: LogFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Restore all photos, or those that --include and --exclude choose."""
    from jobs.settings import load_settings
    from pipeline.decode.job import DecodeJob
    from pipeline.decode.run import decode as run
    from pipeline.errors import SettingError
    from pipeline.patterns import KeyPatterns

    if original and format:
        raise SettingError("--original is the file as it is, --format another one: leave one of them out")
    settings = load_settings(
        config, device=device, weights=weights, ray_address=ray_address, max_gpus=max_gpus, max_hours=max_hours,
        max_cost=max_cost, price_per_hour=price, log_format=log_format, log_file=log_file,
    )  # fmt: skip
    write_logs(settings)
    check_limits(settings)
    job = DecodeJob(
        archive=archive,
        destination=destination,
        patterns=KeyPatterns(include=tuple(include or ()), exclude=tuple(exclude or ())),
        format=format.upper() if format else None,
        original=original,
        # Else no night would get further than the first.
        resume=resume or settings.max_hours is not None or settings.max_cost is not None,
        overwrite=overwrite,
        options=settings.codec_options(),
        pool=settings.pool_options(),
    )
    with supervised(settings, verb="decoding", as_json=as_json) as job_of:
        summary = run(job, job_of.on_progress, on_wait=job_of.on_wait, should_stop=job_of.should_stop, connect=job_of.connect)
        job_of.finish(summary)
    if as_json:
        typer.echo(json.dumps({"event": "summary", **asdict(summary)}))
    else:
        show_decoded(summary)
    if summary.stopped:
        raise stopped()
    if not summary.is_complete:
        raise typer.Exit(INCOMPLETE)
