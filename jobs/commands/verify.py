"""`photoark verify`: is the archive as it was written, does it decode, and does it hold all of its source?"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.encode import encode_job
from jobs.logs import tell, write_logs
from jobs.options import (
    ArchiveUrl,
    AsJson,
    Codec,
    Config,
    DefaultExcludes,
    Device,
    Exclude,
    Gate,
    Include,
    KeepOriginal,
    Ladder,
    LogFile,
    LogFormat,
    MaxCost,
    MaxGpus,
    MaxHours,
    PhotosOnly,
    Price,
    Quality,
    RayAddress,
    StripGps,
    Weights,
)
from jobs.phrases import MAX_NAMED, count, say, show, size
from jobs.run import check_limits, stopped, supervised
from jobs.summaries import INCOMPLETE, announce, show_generative, show_skipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobs.settings import Settings
    from pipeline.archive.care.verify import Orphan, RowCheck, VerifyReport
    from pipeline.archive.versions import Comparer, Comparison
    from pipeline.codecs.registry import CodecOptions
    from pipeline.encode.repair import RepairSummary
    from pipeline.sources.selection import Selection

DAMAGED = 4


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
    include: Include = None,
    exclude: Exclude = None,
    photos_only: PhotosOnly = None,
    default_excludes: DefaultExcludes = None,
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
    """Check every byte: shards, pages, headers of streams, row counts, statistics, each key once.

    Exit code 4: damage was found, or is left after --repair. 3: no damage, but some files are not stored, because their rows
    failed; or files of the source given by --against are missing or have changed; or a repair found photos in neither archive
    nor source. Sound rows are kept; --codec and --quality are for what is encoded again.
    """
    from jobs.settings import load_settings
    from pipeline.archive.care.verify import verify as run
    from pipeline.archive.care.verify import verify_unopened
    from pipeline.archive.reader import Archive
    from pipeline.codecs.container_check import check_container
    from pipeline.errors import ArchiveError, ArchiveNotFoundError, SettingError
    from pipeline.storage.base import Storage

    if against is None and (checksum or repair):
        raise SettingError(f"{'--repair' if repair else '--checksum'} needs the source: name it with --against")
    share = _share(sample)
    settings = load_settings(
        config, include=include, exclude=exclude, photos_only=photos_only, default_excludes=default_excludes,
        codec=codec, quality=quality, gate=gate, ladder=ladder, keep_original=keep_original, strip_gps=strip_gps,
        device=device, weights=weights, ray_address=ray_address, max_gpus=max_gpus, max_hours=max_hours, max_cost=max_cost,
        price_per_hour=price, log_format=log_format, log_file=log_file,
    )  # fmt: skip
    write_logs(settings)
    check_limits(settings)
    decoder = _decoder(settings.codec_options()) if decode or sample is not None else None

    def check() -> tuple[VerifyReport, Comparison | None]:
        comparer = _comparer(against, settings.selection(), checksum=checksum) if against is not None else None
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
    if is_short or _not_stored(report, comparison) or (comparison is not None and not comparison.is_complete):
        raise typer.Exit(INCOMPLETE)


def _repair(source: str, archive: str, settings: Settings, report: VerifyReport, *, as_json: bool) -> RepairSummary:
    from pipeline.encode.repair import repair

    job = encode_job(source, archive, settings)
    announce(job, as_json=as_json)
    with supervised(settings, verb="encoding", as_json=as_json) as job_of:
        summary = repair(
            job, report, job_of.on_progress, on_wait=job_of.on_wait, should_stop=job_of.should_stop, connect=job_of.connect
        )
    if not as_json:
        show(
            (summary.num_shards, "shard repaired", "shards repaired"),
            (summary.num_rows_kept, "row kept", "rows kept"),
            (summary.num_encoded, "photo encoded again", "photos encoded again"),
        )
        show_generative(summary.codecs)
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
            tell(f"lost besides: {count(summary.num_unnamed, 'row')} whose keys cannot be read")
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
    from pipeline.decode.restore import decode_row, file_of, is_whole

    return lambda row: file_of(row, None) if is_whole(row) else decode_row(row, options)


def _comparer(source: str, selection: Selection, *, checksum: bool) -> Comparer:
    import hashlib

    from pipeline.archive.versions import Comparer
    from pipeline.records import Photo
    from pipeline.sources.folder import list_source
    from pipeline.storage.base import fetch

    def digest(photo: Photo) -> str:
        return hashlib.sha256(fetch(photo.uri).data).hexdigest()

    listing = list_source(source, selection)
    return Comparer(listing.photos, digest if checksum else None, is_gone=listing.lacks, skipped=listing.skipped)


def _show(report: VerifyReport, comparison: Comparison | None) -> None:
    show(
        (report.num_shards, "shard"),
        (report.num_rows, "row"),
        (report.num_decoded, "stream decoded", "streams decoded"),
        count(len(report.damages), "fault") if report.damages else "no damage",
    )
    for damage in report.damages:
        keys = _listed(damage.keys) if damage.all_keys_known else " ... ".join(damage.keys)
        tell(f"damaged: {damage.shard}: {keys or 'whole shard'}: {damage.what}")
    _show_orphans(report.orphans)
    _show_not_stored(_not_stored(report, comparison))
    if comparison is not None:
        _show_comparison(comparison)
        say(_verdict(report, comparison))


def _show_orphans(orphans: Sequence[Orphan]) -> None:
    from pipeline.storage.archive_files import is_archive_file

    unused = [orphan for orphan in orphans if is_archive_file(orphan.path)]
    others = [orphan for orphan in orphans if not is_archive_file(orphan.path)]
    if unused:
        files = count(len(unused), "shard is no longer in use", "shards are no longer in use")
        total = size(sum(orphan.size_bytes for orphan in unused))
        show(f"{files}, {total}; photoark vacuum deletes what has been unused for a week")
    if others:
        show(f"{count(len(others), 'other file')} in the folder, {size(sum(orphan.size_bytes for orphan in others))}")
        for orphan in others[:MAX_NAMED]:
            say(f"no part of the archive: {orphan.path}: {size(orphan.size_bytes)}")
        if len(others) > MAX_NAMED:
            say(f"no part of the archive: {len(others) - MAX_NAMED:,} more; --json names all")


def _not_stored(report: VerifyReport, comparison: Comparison | None) -> dict[str, str]:
    """Key -> reason, of rows that failed, but for those whose files are gone from the source."""
    gone = comparison.gone_failures if comparison is not None else {}
    return {key: reason for key, reason in report.not_stored.items() if key not in gone}


def _show_not_stored(reasons: dict[str, str]) -> None:
    hint = "photoark retry SRC ARCHIVE tries again"
    show((len(reasons), f"file is not stored; {hint}", f"files are not stored; {hint}"))
    for key, reason in list(reasons.items())[:MAX_NAMED]:
        say(f"not stored: {key}: {reason}")
    if len(reasons) > MAX_NAMED:
        say(f"not stored: {len(reasons) - MAX_NAMED:,} more; --json names all")


def _show_comparison(comparison: Comparison) -> None:
    show(
        "against the source:",
        (comparison.num_same, "file the same", "files the same"),
        (len(comparison.missing), "file missing", "files missing"),
        (len(comparison.not_stored), "file not stored", "files not stored"),
        (len(comparison.changed), "file changed", "files changed"),
        (len(comparison.extra), "file in the archive alone", "files in the archive alone"),
        (
            len(comparison.gone_failures),
            "file that failed is gone from the source",
            "files that failed are gone from the source",
        ),
    )
    show_skipped(comparison.skipped)
    for key in comparison.missing:
        say(f"missing: {key}")
    for change in comparison.changed:
        say(f"changed: {change.key}: {change.what}")
    for key in comparison.extra:
        say(f"extra: {key}")
    for key, reason in comparison.gone_failures.items():
        say(f"gone: {key}: {reason}")


def _verdict(report: VerifyReport, comparison: Comparison) -> str:
    """Whether the source may go, as far as this run proved it."""
    from pipeline.codecs.registry import is_generative
    from pipeline.records import SkipReason

    chosen = (SkipReason.NOT_INCLUDED, SkipReason.EXCLUDED, SkipReason.NO_PHOTO)
    num_left_out = sum(skipped.num_entries for skipped in comparison.skipped if skipped.reason in chosen)
    if any(skipped.reason is SkipReason.ARCHIVE for skipped in comparison.skipped):
        return "keep the source: an archive lies inside it"
    if not report.is_clean or not comparison.is_complete or _not_stored(report, comparison):
        return "keep the source: not every file of it is stored, sound and unchanged"
    if num_left_out:
        return f"keep the source: {count(num_left_out, 'entry', 'entries')} that were left out are not stored"
    if not comparison.num_same:
        return "the source holds no files"
    if report.num_decoded < report.num_streams:
        return "every file is stored; add --decode to prove that each decodes"
    files = f"each of {count(comparison.num_same, 'file')} is stored and decodes"
    if num_excluded := sum(s.num_entries for s in comparison.skipped if s.reason is SkipReason.EXCLUDED_BY_DEFAULT):
        files += f"; {num_excluded:,} excluded by default {'is' if num_excluded == 1 else 'are'} not stored"
    if num_synthesised := sum(number for codec, number in comparison.codecs.items() if is_generative(codec)):
        return (
            f"safe to delete the source, if synthesised detail will do for {count(num_synthesised, 'photo')} of a generative "
            f"codec: {files}"
        )
    return f"safe to delete the source: {files}"


def _listed(keys: tuple[str, ...]) -> str:
    more = len(keys) - MAX_NAMED
    return ", ".join(keys[:MAX_NAMED]) + (f" and {more} more (--json names them all)" if more > 0 else "")
