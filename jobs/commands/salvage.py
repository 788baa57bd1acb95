"""`photoark salvage`: an archive whose log is lost or damaged, made anew from its shards."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.options import AsJson
from jobs.phrases import count, say, show
from jobs.summaries import INCOMPLETE

DAMAGED = 4


def salvage(
    archive: Annotated[str, typer.Argument(help="Where the shards are; nothing there is changed.")],
    new: Annotated[str, typer.Argument(help="Where the new archive goes.")],
    as_json: AsJson = False,
) -> None:
    """Copy every photo that the shards of ARCHIVE hold into a new archive, without its log: for when that cannot be read.

    Of rows that were replaced and not yet vacuumed, the one that was encoded last counts. Exit code 4: some could not be read
    or proved; `photoark verify NEW --against SRC --repair` brings them back. 3: all is well, but rows say that files are not
    stored.
    """
    from pipeline.archive.care.salvage import salvage as run
    from pipeline.storage.base import Storage

    report = run(Storage(archive), new)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        show(
            f"{count(report.num_rows, 'row')} from {count(report.num_shards, 'shard')}",
            (report.num_superseded, "row more had been replaced", "rows more had been replaced"),
            (report.num_failed, "of the rows failed: its file is not stored", "of the rows failed: their files are not stored"),
        )
        for path, what in report.damaged:
            say(f"damaged: {path}: {what}", err=True)
        for key in report.doubtful:
            say(f"not provable: {key}", err=True)
        for key in report.lost:
            say(f"lost: {key}: the stream that it shared is in no shard", err=True)
    if not report.is_complete:
        raise typer.Exit(DAMAGED)
    if report.num_failed:
        raise typer.Exit(INCOMPLETE)
