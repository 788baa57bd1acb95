"""`photoark bench commands`: what whole commands take, alone and beside a process that keeps a core busy."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from jobs.options import SAMPLE_PHOTOS, Overwrite
from jobs.outputs import check_output
from pipeline.errors import PhotoarkError, SettingError

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "KMP_BLOCKTIME")
"""Settings of OpenMP that are noted beside the results, where the environment has them."""
_NUM_PHOTOS = 4
_NUM_EVALUATED = 2
_LOAD = 0.5
"""Other processes' load, in cores, from which on the machine does not count as quiet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, and the exit code that it has to end with."""

    name: str
    arguments: tuple[str, ...]
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """What a command took: medians over its runs, each in a process of its own."""

    command: str
    busy_cores: int
    """Processes that did nothing but compute beside it, each on a core of its own."""
    wall_s: float
    cpu_s: float
    """Of the process and those that it waited for."""


def bench_commands(
    photos: Annotated[Path, typer.Option(help="Folder of photos.")] = SAMPLE_PHOTOS,
    codec: Annotated[str, typer.Option(help="Codec of the archive, and to evaluate.")] = "ditic-small",
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each command, each way.")] = 3,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="File for the JSON line.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Time commands from start to exit, alone and beside a busy core; the last line is a JSON object."""
    from rich.console import Console
    from rich.table import Table

    if out is not None:
        check_output(out, overwrite=overwrite)
    load = os.getloadavg()[0]
    if load > _LOAD:
        typer.echo(
            f"photoark: other processes keep {load:.1f} cores busy: the times below are not those of a quiet machine", err=True
        )
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(photos, codec, Path(folder))
        found = [_time(command, repeat, busy_cores) for command in commands for busy_cores in (0, 1)]
    table = Table("command", "busy cores", "wall s", "CPU s")
    for one in found:
        table.add_row(one.command, str(one.busy_cores), f"{one.wall_s:.2f}", f"{one.cpu_s:.2f}")
    Console(width=100).print(table)
    result = {
        "codec": codec, "repeat": repeat, "num_cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2),
        "openmp": {name: os.environ[name] for name in WAITING if name in os.environ},
        "commands": [asdict(one) for one in found],
    }  # fmt: skip
    line = json.dumps(result)
    if out is not None:
        out.write_text(line + "\n")
    typer.echo(line)


def _commands(photos: Path, codec: str, folder: Path) -> list[Command]:
    """The commands to time, on an archive of a few photos that is made here."""
    paths = sorted(
        (path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg")), key=lambda p: p.stat().st_size
    )
    if len(paths) < _NUM_PHOTOS:
        raise SettingError(f"--photos {photos}: {_NUM_PHOTOS} JPEG files are needed")
    source, few, archive = folder / "source", folder / "few", folder / "archive"
    for target, chosen in ((source, paths[:_NUM_PHOTOS]), (few, paths[:_NUM_EVALUATED])):
        target.mkdir()
        for path in chosen:
            shutil.copy2(path, target)
    _run(Command(name="make an archive", arguments=("encode", str(source), str(archive), "--codec", codec)))
    key = paths[_NUM_PHOTOS - 1].name
    evaluate = ("evaluate", str(few), "--codec", codec, "--out", str(folder / "evaluation"), "--overwrite")
    return [
        Command(name="encode, misspelt source", arguments=("encode", str(folder / "misspelt"), str(archive)), exit_code=2),
        Command(name="encode, nothing to do", arguments=("encode", str(source), str(archive), "--codec", codec)),
        Command(name="restore", arguments=("restore", str(archive), key, "-o", "-")),
        Command(name=f"evaluate {_NUM_EVALUATED} photos", arguments=evaluate),
    ]


def _time(command: Command, repeat: int, busy_cores: int) -> Took:
    with _busy(busy_cores):
        runs = [_run(command) for _ in range(repeat)]
    wall_s, cpu_s = (round(statistics.median(values), 3) for values in zip(*runs, strict=True))
    return Took(command=command.name, busy_cores=busy_cores, wall_s=wall_s, cpu_s=cpu_s)


def _run(command: Command) -> tuple[float, float]:
    """(wall, CPU) seconds of one run.

    Raises:
        PhotoarkError: it ended with another exit code than it should.
    """
    with tempfile.TemporaryFile() as said:
        started_s = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "jobs", *command.arguments], stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started_s
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != command.exit_code:
            said.seek(0)
            message = said.read().decode(errors="replace").strip()
            raise PhotoarkError(f"{command.name} ended with exit code {process.returncode}: {message}")
    return wall_s, used.ru_utime + used.ru_stime


@contextmanager
def _busy(num_cores: int) -> Iterator[None]:
    """Keep `num_cores` cores busy, by a process on each."""
    cores = sorted(os.sched_getaffinity(0))[:num_cores]
    program = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(core)]) for core in cores]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
