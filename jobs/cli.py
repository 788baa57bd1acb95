"""The command line: its commands by name."""

from __future__ import annotations

import typer

from jobs.bench.app import bench_app
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

app = typer.Typer(
    name="photoark",
    help="Keep large photo collections as neural bitstreams in Parquet. The source is never changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_COMMANDS = (
    encode, plan, decode, restore, serve, ls, stat, verify, retry, optimize, vacuum, salvage, demo, evaluate, train, freeze,
    import_weights,
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)
app.add_typer(bench_app)


def main() -> None:
    """Run the command line and leave with its exit code."""
    run(app)


if __name__ == "__main__":
    main()
