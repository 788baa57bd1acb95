"""`photoark ls`: the keys of an archive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.logs import tell
from jobs.options import ArchiveUrl, AsJson, Exclude, Include
from jobs.phrases import count, say

if TYPE_CHECKING:
    from pipeline.archive.reader import Archive
    from pipeline.records import EncodedPhoto


def ls(
    archive: ArchiveUrl,
    include: Include = None,
    exclude: Exclude = None,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Outcome, codec, pixels, bytes of the file, bytes stored, and why.")
    ] = False,
    shards: Annotated[
        bool,
        typer.Option(
            "--shards", help="Instead, list the Parquet files that count, as paths or URLs: for tools without Delta Lake."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the keys of an archive, or its shards."""
    from pipeline.archive.reader import Archive, no_key, read_rows
    from pipeline.archive.summary import SIZE_COLUMNS, original_size, stream_size
    from pipeline.errors import SettingError
    from pipeline.patterns import KeyPatterns
    from pipeline.records import Outcome

    patterns = KeyPatterns(include=tuple(include or ()), exclude=tuple(exclude or ()))
    if shards:
        if long or not patterns.takes_all:
            raise SettingError("--shards lists whole files: leave out --include, --exclude and --long")
        _list_shards(Archive.open(archive), as_json=as_json)
        return
    columns = ["reason", *SIZE_COLUMNS] if long or as_json else []
    num_listed = num_failed = 0
    for row in read_rows(Archive.open(archive), patterns, columns):
        num_listed += 1
        num_failed += row.outcome is Outcome.FAILED
        if as_json:
            fields = ("key", "outcome", "codec", "width", "height", "source_bytes", "reason", "same_as", "recipe")
            sizes = {"stream_bytes": stream_size(row), "original_bytes": original_size(row)}
            typer.echo(json.dumps({name: getattr(row, name) for name in fields} | sizes))
        elif long:
            say(_line(row, stream_size(row) + original_size(row)))
        else:
            say(row.key)
    if not (num_listed or patterns.takes_all):
        raise no_key(archive, patterns)
    if num_failed and not (long or as_json):
        tell(f"{count(num_failed, 'of these files is', 'of these files are')} not stored; photoark ls -l says why")


def _line(row: EncodedPhoto, stored_bytes: int) -> str:
    """Outcome, codec, pixels, bytes of the source, stored bytes, key, and why or whose stream."""
    pixels = f"{row.width}x{row.height}" if row.width else "-"
    stored = f"{stored_bytes:,}" if stored_bytes else "-"
    notes = [f"same as {row.same_as}"] * (row.same_as is not None) + [row.reason or ""] * (row.reason is not None)
    note = f"  ({'; '.join(notes)})" if notes else ""
    return f"{row.outcome:8} {row.codec or '-':12} {pixels:>11} {row.source_bytes:>12,} {stored:>12} {row.key}{note}"


def _list_shards(archive: Archive, *, as_json: bool) -> None:
    for shard in sorted(archive.shards(), key=lambda shard: (shard.least_key, shard.path)):
        uri = archive.storage.uri(shard.path)
        record = {"shard": uri, "num_rows": None if shard.num_rows < 0 else shard.num_rows, "size_bytes": shard.size_bytes}
        say(json.dumps(record) if as_json else uri)
