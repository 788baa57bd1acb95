"""`photoark import-weights`: weights of the official release become a frozen checkpoint, once their terms are accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import SAMPLE_PHOTOS, Overwrite
from jobs.outputs import check_output
from jobs.progress import steps_shown
from pipeline.errors import SettingError

if TYPE_CHECKING:
    from pipeline.training.weight_source import WeightSource


def import_weights(
    source: Annotated[str, typer.Argument(metavar="FILE|DIR|hf:OWNER/NAME@REV", help="Merged or LoRA checkpoint of DiT-IC.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, *.safetensors.")],
    file: Annotated[str | None, typer.Option(help="Which file, where a folder or repository holds several.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="DIR|hf:...", help="SANA in diffusers' layout; for a LoRA checkpoint.")
    ] = None,
    elic: Annotated[str | None, typer.Option(metavar="FILE|DIR|hf:...", help="ELIC's weights; for a LoRA checkpoint.")] = None,
    use_ema: Annotated[
        bool, typer.Option("--use-ema/--no-use-ema", help="Of a LoRA checkpoint, take the moving average of its weights.")
    ] = False,
    float32: Annotated[
        bool, typer.Option("--float32", help="Store all weights in float32: twice the file, and pictures as the release's.")
    ] = False,
    calibration: Annotated[
        list[Path] | None, typer.Option(help="Photos to calibrate on: tars, folders, single photos; samples by default.")
    ] = None,
    num_photos: Annotated[int, typer.Option(min=1, help="How many of them to use, spread evenly.")] = 12,
    overwrite: Overwrite = False,
    accept_licence: Annotated[bool, typer.Option("--accept-licence", help="You have read the terms and accept them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Turn released weights into a checkpoint for --codec ditic. Their licence is yours to accept: it is shown first."""
    check_output(out, overwrite=overwrite)
    opened = open_accepted({"source": source, "base": base, "elic": elic}, accepted=accept_licence, err=as_json)

    from pipeline.training.data import load_photos
    from pipeline.training.import_weights import import_weights as run

    samples = sorted(path for path in SAMPLE_PHOTOS.glob("*") if path.suffix != ".md")
    if not calibration and not samples:
        raise SettingError("name photos to calibrate on (--calibration): the samples are not installed here")
    photos = load_photos(calibration or samples, min_side=1)
    chosen = photos[:: max(1, len(photos) // num_photos)][:num_photos]
    with steps_shown() as on_step:
        report = run(
            opened["source"], out, chosen, file=file, base=opened.get("base"), elic=opened.get("elic"),
            use_ema=use_ema, float32=float32, on_step=on_step,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({**asdict(report.frozen), "provenance": report.provenance}))
        return
    frozen = report.frozen
    typer.echo(f"{out}: {frozen.num_bytes / 2**20:.1f} MiB, fingerprint {frozen.fingerprint}; use it with")
    typer.echo(f"  photoark encode SRC ARCHIVE --codec ditic --weights {out}")
    typer.echo(
        f"rate on {frozen.num_photos} photos: {frozen.float_bpp:.4f} bpp in float, {frozen.exact_bpp:.4f} bpp exact "
        f"({frozen.rate_cost_percent:+.2f}%)"
    )


def open_accepted(locations: Mapping[str, str | None], *, accepted: bool, err: bool) -> dict[str, WeightSource]:
    """Open those of the sources that are given, once their terms have been shown and are accepted.

    Args:
        err: show them on standard error.

    Raises:
        SettingError: the terms are not accepted, or a source does not exist.
    """
    from pipeline.training.weight_source import open_source

    opened = {name: open_source(where) for name, where in locations.items() if where}
    for part in opened.values():
        typer.echo(_terms_of(part), err=err)
    if not accepted:
        raise SettingError(
            "nothing was written: read the terms shown; if you accept them, run the command again with --accept-licence"
        )
    return opened


def _terms_of(source: WeightSource) -> str:
    """The texts that travel with weights, or plainly that there are none."""
    terms = source.terms()
    shown = [f"--- {source.location}: {text.name}\n{text.text.rstrip()}" for text in terms]
    if not any(text.is_licence for text in terms):
        shown.append(
            f"--- {source.location}: no licence comes with these weights. Nobody has stated what they may be used for; "
            "ask those who published them."
        )
    return "\n".join(shown)
