"""`photoark ls`: the keys of an archive."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jobs.logs import tell
from jobs.options import ArchiveUrl, AsJson, Include
from jobs.phrases import count


def ls(
    archive: ArchiveUrl,
    include: Include = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="Size, codec, outcome and reason too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys of an archive."""
    from pipeline.archive.commit import Archive
    from pipeline.archive.shard_reader import read_rows
    from pipeline.records import Outcome

    columns = ["width", "height", "codec", "source_bytes", "reason"] if long or as_json else []
    num_failed = 0
    for row in read_rows(Archive.open(archive), include, columns):
        num_failed += row.outcome is Outcome.FAILED
        if as_json:
            fields = ("key", "outcome", "codec", "width", "height", "source_bytes", "reason")
            typer.echo(json.dumps({name: getattr(row, name) for name in fields}))
        elif long:
            size = f"{row.width}x{row.height}" if row.width else "-"
            typer.echo(
                f"{row.outcome:8} {row.codec or '-':12} {size:>11} {row.source_bytes:>12,} {row.key}"
                + (f"  ({row.reason})" if row.reason else "")
            )
        else:
            typer.echo(row.key)
    if num_failed and not (long or as_json):
        tell(f"{count(num_failed, 'of these files is', 'of these files are')} not stored; photoark ls -l says why")
