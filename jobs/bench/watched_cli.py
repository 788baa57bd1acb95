"""The command line with watched codecs (`watched_codec`), as `bench faults` starts it."""

from __future__ import annotations

import sys
from dataclasses import replace

from jobs.bench.watched_codec import WatchedCodecs


def main(folder: str, s_per_megapixel: str, arguments: list[str]) -> None:
    """Run the command line."""
    import jobs.commands.encode
    from jobs.cli import main as run

    codecs, made = WatchedCodecs(folder, float(s_per_megapixel)), jobs.commands.encode.encode_job
    jobs.commands.encode.encode_job = lambda *given: replace(made(*given), codecs=codecs)
    sys.argv[1:] = arguments
    run()
