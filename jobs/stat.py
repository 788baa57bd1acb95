"""`photoark stat`: what an archive holds, in figures."""

from __future__ import annotations

import json
from collections import Counter

import typer

from jobs.options import ArchiveUrl, AsJson


def stat(archive: ArchiveUrl, as_json: AsJson = False) -> None:
    """Totals of an archive: photos, bytes before and after, codecs, failures."""
    from pipeline.archive.commit import Archive
    from pipeline.archive.summary import summarise

    totals = summarise(Archive.open(archive))
    if as_json:
        typer.echo(json.dumps(totals.to_dict()))
        return
    counts = Counter(totals.outcomes)
    typer.echo(f"{totals.num_photos} photos in {totals.num_shards} shards: {_list(counts)}")
    sizes = {"sources": totals.source_bytes, "streams": totals.stream_bytes, "shards": totals.shard_bytes}
    typer.echo(", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items()))
    typer.echo(f"codecs: {_list(Counter(totals.codecs))}")


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
