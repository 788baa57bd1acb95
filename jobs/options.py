"""Options that several commands share, so that they read and behave the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.sources.selection import DEFAULT_EXCLUDES

# Panels of `--help`; what belongs to one command alone stays under Options.
_selecting = partial(typer.Option, rich_help_panel="Which files")
_encoding = partial(typer.Option, rich_help_panel="How to encode")
_running = partial(typer.Option, rich_help_panel="Machines and limits")
_reporting = partial(typer.Option, rich_help_panel="Settings, logs and output")

SAMPLE_PHOTOS = Path(__file__).parents[1] / "tests" / "photos"
"""Photos that come with a checkout."""
ArchiveUrl = Annotated[str, typer.Argument(metavar="ARCHIVE", help="Local path or s3://bucket/prefix of the archive.")]
Device = Annotated[str | None, _encoding(help="auto, cpu or cuda; auto by default.")]
Weights = Annotated[Path | None, _encoding(help="Frozen checkpoint of a neural codec; the shipped one by default.")]
Config = Annotated[
    Path | None,
    _reporting(help="TOML file of settings; photoark.toml by default, if there is one."),
]
RayAddress = Annotated[str | None, _running(help="Cluster to join; by default Ray starts on this machine.")]
AsJson = Annotated[bool, _reporting("--json", help="JSON lines while running, and one summary object at the end.")]
Include = Annotated[
    list[str] | None,
    _selecting("--include", metavar="PATTERN", help="Only files whose keys match, with * ? [ ]; may be repeated."),
]
Exclude = Annotated[
    list[str] | None,
    _selecting("--exclude", metavar="PATTERN", help="No files whose keys match, whatever --include says; may be repeated."),
]
PhotosOnly = Annotated[
    bool | None,
    _selecting("--photos-only", help="Leave out files that are no photos; by default they are kept as their bytes."),
]
DefaultExcludes = Annotated[
    bool | None,
    _selecting(
        "--default-excludes/--no-default-excludes",
        help=f"Leave out thumbnails, bins and desktop files, as by default: {' '.join(DEFAULT_EXCLUDES)}",
    ),
]
Codec = Annotated[str | None, _encoding(help="ditic-small (default), ditic, jpeg, avif, webp, jxl or original.")]
Original = Annotated[bool, typer.Option("--original", help="The source file's own bytes, where --keep-original stored them.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]
Gate = Annotated[
    str | None,
    _encoding(help="What each decoded stream must reach: ms_ssim=0.95,psnr=24; of distances at most: perceptual=0.2."),
]
Ladder = Annotated[
    str | None,
    _encoding(help="Codecs to try until one passes the gate, instead of --codec: ditic-small:3,avif:60."),
]
KeepOriginal = Annotated[
    str | None,
    _encoding(
        metavar="WHEN", help="Store the file's own bytes: always, kept (default: where no codec may stand for it) or never."
    ),
]
StripGps = Annotated[
    bool | None,
    _encoding("--strip-gps", help="Leave GPS data out; files that would be kept and may hold some fail."),
]
Quality = Annotated[
    int | None,
    _encoding(help="Of ditic-small 1 to 4, the default; of jpeg, avif, webp and jxl 1 to 100; jxl at 100 is lossless."),
]
MaxGpus = Annotated[int | None, _running(help="GPUs that the cluster may grow to; by default those that it has.")]
MaxHours = Annotated[
    float | None,
    _running(help="Commit what is finished after so long, and stop with exit code 12."),
]
MaxCost = Annotated[float | None, _running(help="The same, once the machines have cost so much; needs --price.")]
Price = Annotated[float | None, _running("--price", help="Of one GPU (without GPUs, one machine) for an hour.")]
LogFormat = Annotated[
    str | None,
    _reporting(metavar="FORMAT", help="json: standard error holds log lines; text by default."),
]
LogFile = Annotated[Path | None, _reporting(help="Add log lines, as JSON, to this file instead.")]
Report = Annotated[
    Path | None,
    _reporting(help="Folder for report.json and report.html: what happened when, on what."),
]
