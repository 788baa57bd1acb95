"""`photoark optimize`: merge small shards into large ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, AsJson


def optimize(
    archive: ArchiveUrl,
    target_mib: Annotated[int, typer.Option(min=1, help="Merge as long as a shard stays below so many MiB.")] = 128,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be merged, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge small shards, which short commits leave, into large ones; `photoark vacuum` deletes the old files later."""
    from pipeline.archive.commit import Archive
    from pipeline.archive.optimize import optimize as run

    report = run(Archive.open(archive), target_bytes=target_mib << 20, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(report)}))
        return
    num_merged = sum(map(len, report.merged))
    typer.echo(
        f"{num_merged} shards ({report.merged_bytes / 1e6:.2f} MB) {'would become' if dry_run else 'became'} "
        f"{len(report.merged)}; of {report.num_shards_before} shards, {report.num_shards_after} "
        f"{'would be' if dry_run else 'are'} left"
    )
