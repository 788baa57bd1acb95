"""`photoark encode` with watched codecs (`watched_codec`), as `bench faults` starts it."""

from __future__ import annotations

import sys
from dataclasses import replace

import typer

import jobs.commands.encode
from jobs.bench.watched_codec import WatchedCodecs
from jobs.ending import run


def main(folder: str, s_per_megapixel: str, arguments: list[str]) -> None:
    """Run the command line."""
    codecs, made = WatchedCodecs(folder, float(s_per_megapixel)), jobs.commands.encode.encode_job
    jobs.commands.encode.encode_job = lambda *given: replace(made(*given), codecs=codecs)
    app = typer.Typer(name="photoark", pretty_exceptions_enable=False)
    app.command()(jobs.commands.encode.encode)
    app.callback()(lambda: None)  # so that the command keeps its name
    sys.argv[1:] = arguments
    run(app)
