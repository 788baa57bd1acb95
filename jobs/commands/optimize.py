"""`photoark optimize`: merge small shards into large ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ArchiveUrl, AsJson
from jobs.phrases import count, say, show, size

if TYPE_CHECKING:
    from pipeline.archive.care.optimize import OptimizeReport
    from pipeline.archive.care.vacuum import VacuumReport


def optimize(
    archive: ArchiveUrl,
    target_mib: Annotated[int, typer.Option(min=1, help="Merge as long as a shard stays below so many MiB.")] = 128,
    vacuum: Annotated[
        bool,
        typer.Option(
            "--vacuum",
            help="Also delete replaced shards at once, not after a week, so that photos-*.parquet are the shards that count. "
            "Let no decode run meanwhile.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge small shards, which short commits leave, into large ones; `photoark vacuum` deletes the old files later."""
    from pipeline.archive.care.optimize import optimize as run
    from pipeline.archive.care.vacuum import vacuum_replaced
    from pipeline.archive.writer import ArchiveWriter

    opened = ArchiveWriter.open(archive)
    report = run(opened, target_bytes=target_mib << 20, dry_run=dry_run)
    vacuumed = vacuum_replaced(opened, merged=report.merged, dry_run=dry_run) if vacuum else None
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, **asdict(report), **({"vacuum": asdict(vacuumed)} if vacuumed else {})}))
        return
    _show_merged(report, dry_run=dry_run)
    if vacuumed is not None:
        _show_vacuumed(vacuumed, dry_run=dry_run)


def _show_merged(report: OptimizeReport, *, dry_run: bool) -> None:
    if not report.merged:
        show(f"nothing to merge in {count(report.num_shards_before, 'shard')}")
        return
    merged, into = count(sum(map(len, report.merged)), "shard"), count(len(report.merged), "larger one")
    are = "would be" if dry_run else "is" if report.num_shards_after == 1 else "are"
    show(
        f"{merged} of {size(report.merged_bytes)} {'would become' if dry_run else 'became'} {into}",
        f"{count(report.num_shards_after, 'shard')} {are} left, of {report.num_shards_before:,}",
    )


def _show_vacuumed(report: VacuumReport, *, dry_run: bool) -> None:
    what = "would be deleted" if dry_run else "deleted"
    show(f"{count(len(report.paths), 'file')} {what}, {size(report.num_bytes)}" if report.paths else "nothing to delete")
    for path in report.paths:
        say(path)
    if report.left:
        show(
            f"{count(len(report.left), 'file')} left that another job may be about to commit: less than an hour old",
            "until it does, or this is run again after an hour, photos-*.parquet are more than the shards that count",
        )
        for path in report.left:
            say(f"left: {path}")
