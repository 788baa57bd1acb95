"""`photoark verify`: is the archive as it was written, and does it decode?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, AsJson, Config, Device, Weights

DAMAGED = 4


def verify(
    archive: ArchiveUrl,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every stream too, which proves most and takes longest.")
    ] = False,
    device: Device = None,
    weights: Weights = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check shards, page checksums, row counts, and that every key is there once."""
    from jobs.settings import load_settings
    from pipeline.archive.commit import Archive
    from pipeline.archive.verify import verify as run
    from pipeline.records import EncodedPhoto

    options = load_settings(config, device=device, weights=weights).codec_options()

    def prove(row: EncodedPhoto) -> None:
        from pipeline.restoration import decode_row

        decode_row(row, options)

    report = run(Archive.open(archive), prove if decode else None)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        decoded = f", {report.num_decoded} decoded" if decode else ""
        typer.echo(f"{report.num_shards} shards, {report.num_rows} rows{decoded}, {len(report.damages)} damaged")
        for damage in report.damages:
            typer.echo(f"damaged: {damage.shard}: {damage.key or 'whole shard'}: {damage.what}", err=True)
    if not report.is_clean:
        raise typer.Exit(DAMAGED)
