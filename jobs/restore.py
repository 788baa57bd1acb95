"""`photoark restore`: one photo, without Ray."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import ArchiveUrl, AsJson, Config, Device, Original, Weights


def restore(
    archive: ArchiveUrl,
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `photoark ls` prints it.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File; - for standard output; the key's name by default.")
    ] = None,
    format: Annotated[str | None, typer.Option(help="Format of the file, such as PNG; the source's by default.")] = None,
    original: Original = False,
    device: Device = None,
    weights: Weights = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Restore one photo."""
    from jobs.settings import load_settings
    from pipeline.errors import SettingError
    from pipeline.restoration import restore as run

    if original and format:
        raise SettingError("--original is the file as it is, --format another one: leave one of them out")
    settings = load_settings(config, device=device, weights=weights)
    photo = run(archive, key, format=format.upper() if format else None, original=original, options=settings.codec_options())
    if output == "-":
        sys.stdout.buffer.write(photo.data)
        return
    path = Path(output or Path(key).name)
    path.write_bytes(photo.data)
    if photo.modified_at is not None:
        os.utime(path, (photo.modified_at.timestamp(),) * 2)
    if as_json:
        row = photo.row
        typer.echo(
            json.dumps({"key": key, "path": str(path), "bytes": len(photo.data), "codec": row.codec, "outcome": row.outcome})
        )
    else:
        what = "the original" if original else f"from {len(photo.row.image or b''):,} ({photo.row.codec})"
        typer.echo(f"{path}: {len(photo.data):,} bytes, {what}")
