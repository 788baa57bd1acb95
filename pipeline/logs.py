"""Log lines as JSON, one object a line, alike from every process of a job, and without credentials.

Every line has `time` (UTC), `level`, `event`, `logger`, `job`, `host` and `pid`; from Ray's workers also `node` and `actor`.
What an event is about stands beside it, where there is such a thing: `key`, `stage`, `attempt` (1 is the first), `codec`,
`reason`, `took_s`. The library logs as any does, with `logging` and `extra`; this module is for whoever wants the lines.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pipeline.errors import redacted

OURS = ("pipeline", "cluster", "jobs")
_ABOUT: ContextVar[dict[str, object]] = ContextVar("about", default={})  # noqa: B039 (never changed in place)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_BUFFER_BYTES = 1 << 20
"""Longer than any line: a line is one write, so that lines of several processes do not mix in one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Where lines go, and which."""

    job: str
    """The same for all processes of a job."""
    file: Path | None = None
    """Lines are added to it; None for standard error."""
    level: str = "INFO"
    """Of this package's loggers; others are heard from WARNING on."""


def start_logs(options: LogOptions, where: Callable[[], dict[str, str]] = dict) -> None:
    """Write JSON lines from now on in this process.

    Args:
        where: fields that are asked for with each line.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler()
    if options.file is not None:
        handler.setStream(open(options.file, "a", buffering=_BUFFER_BYTES, encoding="utf-8"))  # noqa: SIM115
    handler.setFormatter(JsonLines(options.job, where))
    logging.getLogger().addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(options.level)


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Put `fields` (`key`, `stage`) into every line that this thread writes in the `with` block, whoever writes it."""
    token = _ABOUT.set(_ABOUT.get() | fields)
    try:
        yield
    finally:
        _ABOUT.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object a record."""

    def __init__(self, job: str, where: Callable[[], dict[str, str]] = dict) -> None:
        super().__init__()
        self._always = {"job": job, "host": platform.node()}
        self._where = where

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **self._always,
            "pid": record.process,
            **self._where(),
            **_ABOUT.get(),
            **{name: value for name, value in vars(record).items() if _is_extra(name) and value is not None},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # A key is told as it is: it has to be found again, and stands in the archive anyway.
        return json.dumps({name: value if name == "key" else _clean(value) for name, value in line.items()})


def _is_extra(name: str) -> bool:
    return name not in _STANDARD and not name.startswith("_")  # Ray adds one of those


def _clean(value: object) -> object:
    return value if isinstance(value, bool | int | float | None) else redacted(str(value))
