"""`photoark restore`: one photo, without Ray."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ArchiveUrl, AsJson, Config, Device, Original, Overwrite, Weights
from jobs.phrases import say
from pipeline.errors import SettingError, StorageError
from pipeline.pixels.formats.suffixes import FORMATS, SUFFIXES, named_for

if TYPE_CHECKING:
    from pipeline.records import EncodedPhoto


def restore(
    archive: ArchiveUrl,
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `photoark ls` prints it.")],
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="File, whose suffix chooses the format; - for standard output; else KEY's name."),
    ] = None,
    format: Annotated[str | None, typer.Option(help="Format of the file, such as PNG; the source's by default.")] = None,
    original: Original = False,
    overwrite: Overwrite = False,
    device: Device = None,
    weights: Weights = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Restore one photo."""
    from jobs.outputs import check_output, is_stream, shown
    from jobs.settings import load_settings
    from pipeline.storage.base import Storage, told
    from pipeline.storage.locations import scheme_of
    from pipeline.storage.names import from_printable, key_of_name

    if original and format:
        raise SettingError("--original is the file as it is, --format another one: leave one of them out")
    if output and scheme_of(output):
        raise SettingError(f"-o {output} is a URL: name a file on this machine; `decode --include KEY` writes to URLs")
    key = _spelled(from_printable(key))
    format = format.upper() if format else None
    path = None if output == "-" else Path(output) if output else _default_path(key, format)
    named = path if output else None
    _check_formats(key, named, format)
    if path is not None:
        check_output(path, overwrite=overwrite)
    settings = load_settings(config, device=device, weights=weights)

    from pipeline.decode.restore import restore as run

    def choose(row: EncodedPhoto) -> str | None:
        return _format_of(row, named, format, original=original)

    photo = run(archive, key, format=choose, original=original, options=settings.codec_options())
    if path is None:
        sys.stdout.buffer.write(photo.data)
        sys.stdout.buffer.flush()
        return
    if is_stream(path):
        try:
            path.write_bytes(photo.data)
        except OSError as error:
            raise StorageError(f"{shown(path)} cannot be written: {told(error)}") from error
    else:
        name = key_of_name(os.fsencode(path.name))
        Storage(path.parent).write(name, photo.data, modified_at=photo.modified_at, replace=overwrite)
    if as_json:
        row = photo.row
        typer.echo(
            json.dumps({"key": key, "path": str(path), "bytes": len(photo.data), "codec": row.codec, "outcome": row.outcome})
        )
    else:
        what = "the original" if original else f"from {len(photo.row.image or b''):,} ({photo.row.codec})"
        say(f"{shown(path)}: {len(photo.data):,} bytes, {what}")


def _spelled(key: str) -> str:
    """The key of a name that was typed; one that is not UTF-8 has escapes in its key."""
    from pipeline.storage.names import key_of_name

    try:
        key.encode()
    except UnicodeEncodeError:
        return key_of_name(os.fsencode(key))
    return key


def _default_path(key: str, format: str | None) -> Path:
    """The name of the restored photo in the working folder; where it would tell another format, with that one's suffix."""
    from pipeline.storage.names import name_of_key, restored_path

    return Path(named_for(os.fsdecode(name_of_key(restored_path(key).rpartition("/")[2])), format))


def _check_formats(key: str, path: Path | None, format: str | None) -> None:
    """Check `--format` and the suffix of `-o`, as far as that goes without the photo."""
    if format is not None and format not in SUFFIXES:
        raise SettingError(f"--format {format}: choose one of {', '.join(SUFFIXES)}")
    suffix = "" if path is None else _suffix(path)
    if not suffix:
        return
    if format is not None and FORMATS.get(suffix, format) != format:
        raise SettingError(f"-o {path} is the name of another format than --format {format}: leave one of them out")
    if format is None and suffix not in FORMATS and suffix != _suffix(Path(key)):
        known = ", ".join(f".{suffix}" for suffix in SUFFIXES.values())
        raise SettingError(f"-o {path}: .{suffix} is the suffix of no known format: use one of {known}, or add --format")


def _format_of(row: EncodedPhoto, path: Path | None, format: str | None, *, original: bool) -> str | None:
    """The format to restore `row` in; None for the source's.

    Raises:
        SettingError: the photo cannot be had in it.
    """
    from pipeline.records import Outcome

    suffix, own = "" if path is None else _suffix(path), _suffix(Path(row.key))
    wanted = format or FORMATS.get(suffix)
    if row.outcome is Outcome.FAILED or wanted == row.format or not (suffix or format):
        return wanted
    if original or row.outcome is Outcome.KEPT:
        if format is None and FORMATS.get(suffix, suffix) == FORMATS.get(own, own):
            return None
        stored = f"a {row.format} file" if row.format else "a file of no known format"
        why = "--original restores its own bytes" if original else f"its own bytes are stored: {row.reason}"
        raise SettingError(f"{row.key} is {stored}, and {why}; name the output *{Path(row.key).suffix}, without --format")
    if wanted is not None and wanted not in SUFFIXES:
        raise SettingError(f"files of format {wanted} cannot be written: use one of {', '.join(SUFFIXES.values())}")
    return wanted


def _suffix(path: Path) -> str:
    return path.suffix.lower().removeprefix(".")
