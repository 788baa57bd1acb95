"""`photoark vacuum`: delete the files of an archive that its log no longer names."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, AsJson
from jobs.phrases import count, say, show, size


def vacuum(
    archive: ArchiveUrl,
    retention_hours: Annotated[
        int, typer.Option(help="Keep files that were replaced, or written, less than so many hours ago.")
    ] = 168,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted, and delete nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete shards that were replaced or never committed. With less than an hour, let no other job run meanwhile."""
    from pipeline.archive.care.vacuum import vacuum as run
    from pipeline.archive.writer import ArchiveWriter

    report = run(ArchiveWriter.open(archive), retention_hours=retention_hours, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(report)}))
        return
    what = "would be deleted" if dry_run else "deleted"
    show(f"{count(len(report.paths), 'file')} {what}, {size(report.num_bytes)}" if report.paths else "nothing to delete")
    for path in report.paths:
        say(path)
