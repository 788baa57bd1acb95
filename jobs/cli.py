"""The command line: its commands by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from jobs.bench.app import bench_app
from jobs.commands.codecs import codecs
from jobs.commands.decode import decode
from jobs.commands.demo import demo
from jobs.commands.encode import encode
from jobs.commands.evaluate import evaluate
from jobs.commands.freeze import freeze
from jobs.commands.import_weights import import_weights
from jobs.commands.ls import ls
from jobs.commands.optimize import optimize
from jobs.commands.plan import plan
from jobs.commands.restore import restore
from jobs.commands.retry import retry
from jobs.commands.salvage import salvage
from jobs.commands.serve import serve
from jobs.commands.stat import stat
from jobs.commands.train import train
from jobs.commands.vacuum import vacuum
from jobs.commands.verify import verify
from jobs.ending import run


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"photoark {installed_version('photoark')}")
        raise typer.Exit


app = typer.Typer(
    name="photoark",
    help="Keep large photo collections as neural bitstreams in Parquet. The source is never changed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_STORE, _RESTORE, _CARE, _CODECS, _OPERATE = "Store", "Restore", "Look after", "Codecs and training", "Operate"
# Function, panel, one line for the list of commands, and examples for the end of its own help.
_COMMANDS: tuple[tuple[Callable[..., None], str, str, tuple[str, ...]], ...] = (
    (demo, _STORE, "Try it on sample photos.", ("photoark demo", "photoark demo --photos ~/Pictures --codec avif")),
    (encode, _STORE, "Encode what the archive lacks of a source.", (
        "photoark encode ~/Pictures archive",
        "photoark encode s3://bucket/photos s3://bucket/archive --codec avif --quality 60",
        "photoark encode ~/Pictures archive --ladder ditic-small:3,avif:60 --gate ms_ssim=0.95",
    )),
    (retry, _STORE, "Encode again what failed.", (
        "photoark retry ~/Pictures archive", "photoark retry ~/Pictures archive --dry-run",
    )),
    (decode, _RESTORE, "Restore photos as files.", (
        "photoark decode archive restored", "photoark decode archive restored --include '2024/*' --format PNG",
    )),
    (restore, _RESTORE, "Restore one photo.", (
        "photoark restore archive 2024/a.jpg", "photoark restore archive 2024/a.jpg -o a.png",
    )),
    (serve, _RESTORE, "Serve an archive over HTTP.", (
        "photoark serve archive", "photoark serve s3://bucket/archive --port 8080",
    )),
    (ls, _CARE, "List keys, or shards.", ("photoark ls archive -l", "photoark ls archive --include '2024/*' --json")),
    (stat, _CARE, "Show what an archive holds, in figures.", ("photoark stat archive",)),
    (verify, _CARE, "Check every byte; compare with the source.", (
        "photoark verify archive", "photoark verify archive --against ~/Pictures --decode",
        "photoark verify archive --against ~/Pictures --repair",
    )),
    (optimize, _CARE, "Merge small shards into large ones.", (
        "photoark optimize archive", "photoark optimize archive --vacuum",
    )),
    (vacuum, _CARE, "Delete files that the log no longer names.", ("photoark vacuum archive --dry-run",)),
    (salvage, _CARE, "Make a new archive from shards without a log.", ("photoark salvage damaged rescued",)),
    (codecs, _CODECS, "List the codecs, their qualities and weights.", ("photoark codecs",)),
    (evaluate, _CODECS, "Measure rate and quality of codecs.", (
        "photoark evaluate ~/Pictures --codec ditic-small,avif:30,60 -o report",
    )),
    (train, _CODECS, "Train a DiT-IC.", ("photoark train photos.tar --out run --steps 4000",)),
    (freeze, _CODECS, "Make a trained model exact.", (
        "photoark freeze run/last.pt -o model.safetensors --calibration photos.tar",
    )),
    (import_weights, _CODECS, "Turn released weights into a checkpoint.", (
        "photoark import-weights model.pt -o ditic.safetensors",
    )),
    (plan, _OPERATE, "Estimate time, size and cost on clusters.", ("photoark plan ~/Pictures archive --sizes 1,8 --price 2",)),
)  # fmt: skip
for _command, _panel, _line, _examples in _COMMANDS:
    _epilog = "\n\n".join(("[bold]Examples[/bold]", *_examples))
    app.command(rich_help_panel=_panel, short_help=_line, epilog=_epilog)(_command)
app.add_typer(bench_app, rich_help_panel=_OPERATE, short_help="Measure speed, memory and what faults cost.")


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line and leave with its exit code."""
    run(app)


if __name__ == "__main__":
    main()
