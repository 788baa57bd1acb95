"""`encode`, `decode` and `restore` as functions of plain arguments."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from pipeline.codecs.points import CodecAt, parse_ladder
from pipeline.codecs.registry import SHIPPED_CODEC, CodecOptions
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import RestoredPhoto
from pipeline.decode.restore import restore as restore_photo
from pipeline.decode.run import decode as run_decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode as run_encode
from pipeline.errors import SettingError
from pipeline.job_summary import JobSummary
from pipeline.patterns import KeyPatterns
from pipeline.progress import OnProgress
from pipeline.quality.gate import NO_GATE, parse_gate
from pipeline.records import KeepOriginal
from pipeline.sources.selection import Selection


def encode(
    source: str | PathLike[str],
    archive: str | PathLike[str],
    *,
    codec: str = SHIPPED_CODEC,
    quality: int | None = None,
    ladder: str | None = None,
    gate: str | None = None,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    photos_only: bool = False,
    keep_original: KeepOriginal | str = KeepOriginal.KEPT,
    strip_gps: bool = False,
    dedupe: bool = False,
    recode: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> JobSummary:
    """Encode every file of `source` that `archive` does not hold, or holds an earlier version of.

    The source is never changed. Run again, the same call does only what is missing. Ray runs the codec; without a Ray that
    this process is connected to, one is started on this machine.

    Args:
        source: folder, or `s3://bucket/prefix`.
        archive: folder or URL of the archive; it is made if there is none.
        codec: ditic-small, ditic, jpeg, avif, webp, jxl or original.
        quality: of ditic-small 1 to 4; of jpeg, avif, webp and jxl 1 to 100; None for the codec's usual one.
        ladder: codecs to try until one passes the gate, instead of `codec`: `ditic-small:3,avif:60`.
        gate: what each decoded stream must reach: `ms_ssim=0.95,psnr=24`.
        weights: frozen checkpoint of a neural codec; None for the one that comes with the package.
        device: auto, cpu or cuda.
        include: patterns of keys, with * ? [ ], one of which must match; empty: all do.
        exclude: patterns none of which may match.
        photos_only: leave out files that are no photos instead of keeping their bytes.
        keep_original: when a file's own bytes are stored: always, kept (where no codec may stand for it) or never.
        strip_gps: leave positions out.
        dedupe: store one stream for all photos of the same bytes.
        recode: encode again what another recipe made.
        on_progress: called with a `pipeline.progress.Progress` as photos are done.

    Returns:
        What the job came to: counts, bytes, and the files that failed with their reasons (`failures`, `not_stored`).

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveError: the archive can be neither opened nor made.

    Example:
        >>> import photoark
        >>> summary = photoark.encode("photos", "new-archive", codec="webp", quality=60)
        >>> summary.num_encoded, summary.is_complete
        (2, True)
    """
    if ladder is not None and quality is not None:
        raise SettingError("a ladder names the quality of each of its codecs: leave quality out")
    job = EncodeJob(
        source=fspath(source),
        archive=fspath(archive),
        codec=codec,
        ladder=parse_ladder(ladder) if ladder is not None else (CodecAt(codec, quality),) if quality is not None else (),
        gate=parse_gate(gate) if gate is not None else NO_GATE,
        options=options_of(weights, device),
        keep_original=KeepOriginal(keep_original),
        strip_gps=strip_gps,
        selection=Selection(include=tuple(include), exclude=tuple(exclude), photos_only=photos_only),
        dedupe=dedupe,
        recode=recode,
    )
    return run_encode(job, on_progress)


def decode(
    archive: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    format: str | None = None,
    original: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    on_progress: OnProgress = lambda _: None,
) -> JobSummary:
    """Restore photos of an archive as files below `destination`, each under its key.

    Args:
        archive: folder or URL of the archive.
        destination: folder, or `s3://bucket/prefix`.
        include: patterns of keys, with * ? [ ], one of which must match; empty: all do.
        exclude: patterns none of which may match.
        format: Pillow's name of the container of every file, such as PNG; None for each source's own.
        original: hand out the source files' own bytes, where they were stored.
        resume: leave files alone that an earlier decode wrote.
        overwrite: replace other files that are there already; without it, they stop the job before it begins.
        weights, device, on_progress: as for `encode`.

    Returns:
        What the job came to; `failures` names each photo that did not come back, with the reason.

    Raises:
        ArchiveNotFoundError: there is no archive.
        SettingError: a setting is wrong, no key matches, or files are in the way.

    Example:
        >>> import photoark
        >>> photoark.decode("archive", "restored", include=["a*"]).num_restored
        1
    """
    job = DecodeJob(
        archive=fspath(archive),
        destination=fspath(destination),
        patterns=KeyPatterns(include=tuple(include), exclude=tuple(exclude)),
        format=format,
        original=original,
        resume=resume,
        overwrite=overwrite,
        options=options_of(weights, device),
    )
    return run_decode(job, on_progress)


def restore(
    archive: str | PathLike[str],
    key: str,
    *,
    format: str | None = None,
    original: bool = False,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
) -> RestoredPhoto:
    """Restore one photo of an archive, without Ray.

    For several photos, `open` the archive once.

    Args:
        archive: folder or URL of the archive.
        key: path of the photo relative to its source.
        format: Pillow's name of another container, such as PNG; None for the source's own.
        original: the source file's own bytes instead of what was decoded.
        weights, device: as for `encode`.

    Returns:
        The file (`data`), the time of change of its source (`modified_at`) and its row.

    Raises:
        ArchiveNotFoundError: there is no archive.
        KeyNotFoundError: the archive holds no such key.
        PhotoError: it failed when it was encoded, its format cannot be written, or its own bytes were not stored.
        StreamError: its bitstream is damaged, or its codec is not installed.

    Example:
        >>> import photoark
        >>> photo = photoark.restore("archive", "a.jpg", format="PNG")
        >>> photo.data[:4], photo.row.codec
        (b'\\x89PNG', 'webp')
    """
    return restore_photo(fspath(archive), key, format=format, original=original, options=options_of(weights, device))


def options_of(weights: str | PathLike[str] | None, device: str) -> CodecOptions:
    """Return the options of a codec that decodes, or encodes at a quality named elsewhere."""
    return CodecOptions(device=device, weights=None if weights is None else Path(weights))
