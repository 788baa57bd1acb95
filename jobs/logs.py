"""What a command writes about itself: words for a person, or lines of JSON for whatever collects logs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import SettingError
from pipeline.logs import JsonLines, LogOptions, start_logs
from pipeline.storage.names import printable

if TYPE_CHECKING:
    from jobs.settings import Settings

log = logging.getLogger(__name__)


def write_logs(settings: Settings) -> None:
    """Begin with log lines, where they are wanted.

    Raises:
        SettingError: the log file cannot be written.
    """
    if not settings.wants_logs:
        # The library's warnings are told in words of ours: failures at the end, or not at all.
        logging.getLogger("pipeline").addHandler(logging.NullHandler())
        return
    try:
        start_logs(_options(settings, settings.log_file))
    except OSError as error:
        raise SettingError(f"--log-file {settings.log_file} cannot be written: {error.strerror}") from error


def worker_logs(settings: Settings) -> dict[str, Any] | None:
    """Runtime environment for Ray in which workers write such lines too; None where none are wanted.

    Those of a Ray that is started here go into the same file; those of other machines where Ray keeps its workers' standard
    error.
    """
    if not settings.wants_logs:
        return None
    from cluster.connect import joins
    from pipeline.on_ray.logs import with_logs

    return with_logs(_options(settings, None if joins(settings.ray_address) else settings.log_file))


def tell(message: str, **fields: object) -> None:
    """A message on standard error; where that holds JSON lines, as one of them, with `fields`."""
    if are_lines_on_stderr():
        log.info(message, extra=fields)
    else:
        print(printable(message), file=sys.stderr, flush=True)


def are_lines_on_stderr() -> bool:
    """Whether standard error is for JSON lines alone."""
    return any(
        isinstance(handler, logging.StreamHandler) and isinstance(handler.formatter, JsonLines) and handler.stream is sys.stderr
        for handler in logging.getLogger().handlers
    )


def _options(settings: Settings, file: Path | None) -> LogOptions:
    return LogOptions(job=settings.job, file=file and file.absolute(), level=settings.log_level.upper())
