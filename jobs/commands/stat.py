"""`photoark stat`: what an archive holds, in figures."""

from __future__ import annotations

import json
from collections import Counter

import typer

from jobs.options import ArchiveUrl, AsJson
from jobs.phrases import count, show, shrinkage, size


def stat(archive: ArchiveUrl, as_json: AsJson = False) -> None:
    """Totals of an archive: photos, bytes before and after, codecs, failures."""
    from pipeline.archive.reader import Archive
    from pipeline.archive.summary import summarise

    totals = summarise(Archive.open(archive))
    if as_json:
        typer.echo(json.dumps(totals.to_dict()))
        return
    outcomes, stored = totals.outcomes, totals.stream_bytes + totals.original_bytes
    show(
        f"{count(totals.num_photos, 'file')} in {count(totals.num_shards, 'shard')}, {size(totals.shard_bytes)}",
        (outcomes.get("encoded", 0), "encoded", "encoded"),
        (outcomes.get("kept", 0), "kept as it is", "kept as they are"),
        (outcomes.get("failed", 0), "not stored: photoark ls -l says why", "not stored: photoark ls -l says why"),
        *([shrinkage(totals.stored_bytes, stored)] if stored else []),
        *(f"{codec}: {count(number, 'file')}" for codec, number in Counter(totals.codecs).most_common()),
    )
