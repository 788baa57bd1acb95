"""`photoark verify`: is the archive as it was written, does it decode, and does it hold all of its source?"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.encode import encode_job
from jobs.logs import tell, write_logs
from jobs.options import (
    ArchiveUrl,
    AsJson,
    Codec,
    Config,
    Device,
    Gate,
    KeepOriginal,
    Ladder,
    LogFile,
    LogFormat,
    MaxCost,
    MaxGpus,
    MaxHours,
    Price,
    Quality,
    RayAddress,
    StripGps,
    Weights,
)
from jobs.supervision import check_limits, stopped, supervised

if TYPE_CHECKING:
    from jobs.settings import Settings
    from pipeline.archive.compare import Comparer, Comparison
    from pipeline.archive.verify import RowCheck, VerifyReport
    from pipeline.codecs.registry import CodecOptions
    from pipeline.stages.repair import RepairSummary

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
    repair: Annotated[
        bool, typer.Option("--repair", help="Encode what is damaged again from the source that --against names.")
    ] = False,
    codec: Codec = None,
    quality: Quality = None,
    gate: Gate = None,
    ladder: Ladder = None,
    keep_original: KeepOriginal = None,
    strip_gps: StripGps = None,
    device: Device = None,
    weights: Weights = None,
    ray_address: RayAddress = None,
    max_gpus: MaxGpus = None,
    max_hours: MaxHours = None,
    max_cost: MaxCost = None,
    price: Price = None,
    log_format: LogFormat = None,
    log_file: LogFile = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte: shards, pages, headers of streams, row counts, statistics, each key once. Lists orphaned files.

    Exit code 4: damage was found, or is left after --repair. 3: none, but photos of the source given by --against are missing
    or have changed, or a repair found photos in neither archive nor source. Sound rows are kept; --codec and --quality are
    for what is encoded again.
    """
    from jobs.settings import load_settings
    from pipeline.archive.commit import Archive
    from pipeline.archive.verify import verify as run
    from pipeline.archive.verify import verify_unopened
    from pipeline.container_check import check_container
    from pipeline.errors import ArchiveError, ArchiveNotFoundError, SettingError
    from pipeline.storage import Storage

    if against is None and (checksum or repair):
        raise SettingError(f"{'--repair' if repair else '--checksum'} needs the source: name it with --against")
    share = _share(sample)
    settings = load_settings(
        config, codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address, max_gpus=max_gpus, max_hours=max_hours, max_cost=max_cost,
        price_per_hour=price, log_format=log_format, log_file=log_file,
    )  # fmt: skip
    write_logs(settings)
    check_limits(settings)
    decoder = _decoder(settings.codec_options()) if decode or sample is not None else None

    def check() -> tuple[VerifyReport, Comparison | None]:
        comparer = _comparer(against, checksum=checksum) if against is not None else None
        on_row = comparer.see if comparer else None
        try:
            opened = Archive.open(archive)
        except ArchiveNotFoundError:
            raise
        except ArchiveError as error:
            return verify_unopened(Storage(archive), error), None
        report = run(opened, decoder, check=check_container, share=share, on_row=on_row)
        return report, comparer.result() if comparer else None

    report, comparison = check()
    repaired = None
    if repair and not report.is_clean:
        if not as_json:
            _show(report, comparison)
        assert against is not None
        repaired = _repair(against, archive, settings, report, as_json=as_json)
        report, comparison = check()
    if as_json:
        others = {"against": comparison and asdict(comparison), "repair": repaired and asdict(repaired)}
        typer.echo(json.dumps(asdict(report) | others))
    else:
        _show(report, comparison)
    if repaired is not None and repaired.stopped:
        raise stopped()
    if not report.is_clean:
        raise typer.Exit(DAMAGED)
    is_short = repaired is not None and not repaired.is_complete
    if is_short or (comparison is not None and not comparison.is_complete):
        raise typer.Exit(INCOMPLETE)


def _repair(source: str, archive: str, settings: Settings, report: VerifyReport, *, as_json: bool) -> RepairSummary:
    from pipeline.stages.repair import repair

    job = encode_job(source, archive, settings)
    with supervised(settings, verb="encoding", as_json=as_json) as job_of:
        summary = repair(job, report, job_of.on_progress, should_stop=job_of.should_stop)
    if not as_json:
        typer.echo(
            f"repaired {summary.num_shards} shards: {summary.num_rows_kept} rows kept, {summary.num_encoded} encoded again"
        )
        told = {
            "not provable, kept because the source has it no more": summary.doubtful,
            "cannot be encoded now": summary.failed,
            "lost, in neither archive nor source": summary.lost,
            "shard that cannot be read at present": summary.unreadable,
        }
        for what, names in told.items():
            for name in names:
                tell(f"{what}: {name}")
        if summary.num_unnamed:
            tell(f"lost besides: {summary.num_unnamed} rows whose keys cannot be read")
    return summary


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
    from pipeline.storage import fetch

    def digest(photo: Photo) -> str:
        return hashlib.sha256(fetch(photo.uri).data).hexdigest()

    return Comparer(list_photos(source), digest if checksum else None)


def _show(report: VerifyReport, comparison: Comparison | None) -> None:
    decoded = f", {report.num_decoded} decoded" if report.num_decoded else ""
    typer.echo(f"{report.num_shards} shards, {report.num_rows} rows{decoded}, {len(report.damages)} damaged")
    for damage in report.damages:
        keys = _listed(damage.keys) if damage.all_keys_known else " ... ".join(damage.keys)
        tell(f"damaged: {damage.shard}: {keys or 'whole shard'}: {damage.what}")
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
