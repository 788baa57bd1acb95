"""How a command ends: one line for a person, and an exit code.

0 all done   1 failed   2 wrong usage   3 done, but some photos failed   4 verification found damage
12 stopped at a limit   130 interrupted   143 terminated
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

import typer

from jobs.logs import are_lines_on_stderr
from pipeline.errors import (
    ArchiveNotFoundError,
    KeyNotFoundError,
    OriginalNotStoredError,
    PhotoarkError,
    SettingError,
    redacted,
)
from pipeline.interrupt import Terminated, raise_terminated
from pipeline.storage.names import key_of_name, printable
from pipeline.storage.s3 import give_up_early

log = logging.getLogger(__name__)
FAILED, USAGE, INTERRUPTED = 1, 2, 130
_GC_THRESHOLD = 100_000
_OUTSIDE = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOSPC,
    errno.ENOTDIR, errno.EPERM, errno.EPIPE, errno.EROFS,
})  # fmt: skip
"""Errors of the system that are no fault of the program: a full disk, a folder without permission, a pipe nobody reads."""
_COMMITTING = frozenset({"encode", "retry", "verify", "optimize", "vacuum"})
"""Commands that commit as they go, and find out by themselves what is left."""


def run(app: typer.Typer) -> NoReturn:
    """Run a command line on this process's arguments and leave with its exit code."""
    sys.excepthook = _report
    # Imports create hundreds of thousands of objects that live until the end. Searching them for garbage while they are
    # created, and once more at exit, takes a quarter of a short command.
    gc.set_threshold(_GC_THRESHOLD)
    log.addHandler(logging.NullHandler())  # what nobody wants logged is said in words, below
    # That one of its processes died, Ray prints to standard output, where --json is read; what came of it we say ourselves.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    give_up_early()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, raise_terminated)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()  # here, where what goes wrong can be said
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Terminated as error:
        _say(f"terminated{_how_to_go_on(sys.argv[1:])}")
        code = error.code
    except (SettingError, ArchiveNotFoundError, KeyNotFoundError, OriginalNotStoredError) as error:
        _say(str(error))
        code = USAGE
    except PhotoarkError as error:
        _say(str(error))
        code = FAILED
    except OSError as error:
        if error.errno not in _OUTSIDE:
            raise
        code = FAILED
        if error.errno != errno.EPIPE:  # who reads no further, as `head`, needs no message
            from pipeline.storage.base import told

            has_name = isinstance(error.filename, str | bytes)
            what = f"{key_of_name(os.fsencode(error.filename))} cannot be read or" if has_name else "standard output cannot be"
            _say(f"{what} written: {told(error)}")
        _drop_output()
    except Exception as error:
        # Usage errors of the parser know their own exit code and how to show themselves.
        if not hasattr(error, "show"):
            raise
        error.show()
        code = error.exit_code  # type: ignore[attr-defined]
    if code == INTERRUPTED:  # typer turns most interrupts into that
        _say(f"interrupted{_how_to_go_on(sys.argv[1:])}")
    gc.freeze()
    sys.exit(code if isinstance(code, int) else 0)


def _how_to_go_on(arguments: list[str]) -> str:
    """Return what to say to somebody who ended a command: what stays, and what to run to go on; empty if nothing does."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    if command == "decode":
        goes_on = "the same command goes on" if "--resume" in arguments else "run the same command with --resume to go on"
        return f"; what was restored stays, {goes_on}"
    if command == "train":
        return "; the same command goes on from the last checkpoint"
    return "; what was committed stays, and the same command goes on from there" if command in _COMMITTING else ""


def _drop_output() -> None:
    """Let go of what is left for a standard output that takes no more, or Python would complain when it ends."""
    with suppress(OSError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody expected, told whole but for credentials."""
    if are_lines_on_stderr():
        log.critical("unexpected error", exc_info=(kind, error, trace))
    else:
        for line in redacted("".join(traceback.format_exception(kind, error, trace))).splitlines():
            print(printable(line), file=sys.stderr)


def _say(message: str) -> None:
    log.error(message)
    if not are_lines_on_stderr():
        print(printable(f"photoark: {message}"), file=sys.stderr)
