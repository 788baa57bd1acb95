"""`photoark codecs`: every codec by name, with its qualities and weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def codecs(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """List the codecs: what each is, its qualities, and whose weights it needs."""
    from pipeline.codecs.registry import describe_codecs

    found = describe_codecs()
    if as_json:
        for codec in found:
            typer.echo(json.dumps(asdict(codec)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("codec", "qualities", "weights", "what it is")
    for codec in found:
        first, last = codec.qualities or ("", "")
        qualities = f"{first} to {last}, usually {codec.usual_quality}" if codec.qualities else ""
        table.add_row(codec.name, qualities, codec.weights, codec.what)
    Console().print(table)
