"""`photoark verify`: is the archive as it was written, does it decode, and does it hold all of its source?"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ArchiveUrl, AsJson, Config, Device, Weights

if TYPE_CHECKING:
    from pipeline.archive.compare import Comparer, Comparison
    from pipeline.archive.verify import RowCheck, VerifyReport
    from pipeline.codecs.registry import CodecOptions

INCOMPLETE, DAMAGED = 3, 4
_KEYS_SHOWN = 20


def verify(
    archive: ArchiveUrl,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every stream too, which proves most and takes longest.")
    ] = False,
    sample: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Decode only so many streams, such as 5%, chosen anew each time.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="SRC", help="Compare with the source: missing, changed, extra. Exit code 3 for the first two."),
    ] = None,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Compare by SHA-256, which reads the whole source, not by size and time.")
    ] = False,
    device: Device = None,
    weights: Weights = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte: shards, pages, headers of streams, row counts, statistics, each key once. Lists orphaned files.

    Exit code 4: damage was found. 3: none, but photos of the source given by --against are missing or have changed.
    """
    from jobs.settings import load_settings
    from pipeline.archive.commit import Archive
    from pipeline.archive.verify import verify as run
    from pipeline.container_check import check_container
    from pipeline.errors import SettingError

    if checksum and against is None:
        raise SettingError("--checksum says how to compare with a source: name it with --against")
    share = _share(sample)
    options = load_settings(config, device=device, weights=weights).codec_options()
    opened = Archive.open(archive)
    comparer = _comparer(against, checksum=checksum) if against is not None else None
    report = run(
        opened,
        _decoder(options) if decode or sample is not None else None,
        check=check_container,
        share=share,
        on_row=comparer.see if comparer else None,
    )
    comparison = comparer.result() if comparer else None
    if as_json:
        against_json = asdict(comparison) if comparison else None
        typer.echo(json.dumps({**asdict(report), "against": against_json}))
    else:
        _show(report, comparison)
    if not report.is_clean:
        raise typer.Exit(DAMAGED)
    if comparison is not None and not comparison.is_complete:
        raise typer.Exit(INCOMPLETE)


def _share(sample: str | None) -> float:
    from pipeline.errors import SettingError

    if sample is None:
        return 1.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", sample.strip())
    if match is None or float(match[1]) > 100:
        raise SettingError(f"--sample {sample}: give a share from 0% to 100%, such as 5%")
    return float(match[1]) / 100


def _decoder(options: CodecOptions) -> RowCheck:
    from pipeline.restoration import decode_row

    return lambda row: decode_row(row, options)


def _comparer(source: str, *, checksum: bool) -> Comparer:
    import hashlib

    from pipeline.archive.compare import Comparer
    from pipeline.records import Photo
    from pipeline.sources.folder import list_photos
    from pipeline.storage import Storage

    storage = Storage(source)

    def digest(photo: Photo) -> str:
        return hashlib.sha256(storage.read(photo.key)).hexdigest()

    return Comparer(list_photos(source), digest if checksum else None)


def _show(report: VerifyReport, comparison: Comparison | None) -> None:
    decoded = f", {report.num_decoded} decoded" if report.num_decoded else ""
    typer.echo(f"{report.num_shards} shards, {report.num_rows} rows{decoded}, {len(report.damages)} damaged")
    for damage in report.damages:
        keys = _listed(damage.keys) if damage.all_keys_known else " ... ".join(damage.keys)
        typer.echo(f"damaged: {damage.shard}: {keys or 'whole shard'}: {damage.what}", err=True)
    if report.orphans:
        size_bytes = sum(orphan.size_bytes for orphan in report.orphans)
        typer.echo(f"{len(report.orphans)} files that the log does not name, {size_bytes} bytes; no damage:")
        for orphan in report.orphans:
            typer.echo(f"orphan: {orphan.path}: {orphan.size_bytes} bytes")
    if comparison is None:
        return
    typer.echo(
        f"against the source: {comparison.num_same} the same, {len(comparison.missing)} missing, "
        f"{len(comparison.changed)} changed, {len(comparison.extra)} extra"
    )
    for key in comparison.missing:
        typer.echo(f"missing: {key}")
    for change in comparison.changed:
        typer.echo(f"changed: {change.key}: {change.what}")
    for key in comparison.extra:
        typer.echo(f"extra: {key}")


def _listed(keys: tuple[str, ...]) -> str:
    more = len(keys) - _KEYS_SHOWN
    return ", ".join(keys[:_KEYS_SHOWN]) + (f" and {more} more (--json names them all)" if more > 0 else "")
