"""`photoark optimize`: merge small shards into large ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, AsJson
from jobs.phrases import count, show, size


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
    if not report.merged:
        show(f"nothing to merge in {count(report.num_shards_before, 'shard')}")
        return
    merged, into = count(sum(map(len, report.merged)), "shard"), count(len(report.merged), "larger one")
    show(
        f"{merged} of {size(report.merged_bytes)} {'would become' if dry_run else 'became'} {into}",
        f"{count(report.num_shards_after, 'shard')} {'would be' if dry_run else 'are'} left, of {report.num_shards_before:,}",
    )
