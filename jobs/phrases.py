"""Counts, sizes and durations in words, for summaries of one fact a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import typer

from jobs.logs import are_lines_on_stderr, tell
from pipeline.storage.names import printable

MAX_NAMED = 20
"""Files of a kind that a summary names; `--json` names them all."""
_UNITS = ("kB", "MB", "GB", "TB")


def count(number: int, one: str, many: str | None = None) -> str:
    """A number and its noun: "1 photo", "1,200 photos"; `many` is `one` with an s unless it is given."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def size(num_bytes: float) -> str:
    """Bytes in three digits or so: "812 bytes", "12.3 kB", "1.20 GB"; units are powers of 1,000."""
    if num_bytes < 1000:
        return count(round(num_bytes), "byte")
    exponent = min(int(math.log(num_bytes / 0.9995, 1000)), len(_UNITS))
    number = num_bytes / 1000**exponent
    return f"{number:,.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {_UNITS[exponent - 1]}"


def shrinkage(bytes_in: int, bytes_out: int) -> str:
    """What became of bytes: "12.3 MB became 1.20 MB, 10.2 times smaller"."""
    sizes = f"{size(bytes_in)} became {size(bytes_out)}"
    if not bytes_in or not bytes_out or round(bytes_in / bytes_out, 1) == 1:
        return sizes
    if bytes_in < bytes_out:
        return f"{sizes}, {bytes_out / bytes_in:.1f} times larger"
    return f"{sizes}, {bytes_in / bytes_out:.1f} times smaller"


def duration(seconds: float) -> str:
    """Time in a unit that suits it: "0.4 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, left_s = divmod(round(seconds), 60)
    return f"{minutes} min {left_s} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def say(line: str, *, err: bool = False) -> None:
    """Print one line on standard output or standard error, whatever control characters a key or a reason in it holds."""
    typer.echo(printable(line), err=err)


def show(*facts: str | tuple[int, str] | tuple[int, str, str]) -> None:
    """Print one fact a line on standard output.

    Args:
        facts: sentences, and numbers with their nouns as for `count`, left out where the number is 0.
    """
    for fact in facts:
        if isinstance(fact, str):
            say(fact)
        elif fact[0]:
            say(count(*fact))


def name_files(what: str, reasons: Mapping[str, str] | Iterable[tuple[str, str]]) -> None:
    """Name the first files with their reasons on standard error; where that holds log lines, each has its own already.

    Args:
        what: happened to them: "failed", "not stored".
        reasons: key and reason of each.
    """
    if are_lines_on_stderr():
        return
    pairs = list(reasons.items() if isinstance(reasons, Mapping) else reasons)
    for key, reason in pairs[:MAX_NAMED]:
        tell(f"{what}: {key}: {reason}")
    if len(pairs) > MAX_NAMED:
        tell(f"{what}: {len(pairs) - MAX_NAMED:,} more; --json names all")
