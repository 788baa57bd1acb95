"""`photoark evaluate`: rate and quality of any codecs over a folder of photos, and how they compare.

PHOTOS ─► evaluation.json, table.txt, rate_distortion.png and .svg, crops.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.options import AsJson, Config, Device, Overwrite, Weights
from jobs.phrases import say
from pipeline.errors import SettingError

if TYPE_CHECKING:
    from rich.table import Table

    from jobs.settings import Settings
    from pipeline.evaluation.run import Evaluation
    from pipeline.quality.rate_distortion import BDRate, Metric

TABLE_WIDTH = 110
OUTPUTS = ("evaluation.json", "table.txt", "rate_distortion.png", "rate_distortion.svg", "crops.png")


def evaluate(
    photos: Annotated[str, typer.Argument(metavar="PHOTOS", help="Folder, bucket or prefix of photos; it is only read.")],
    codec: Annotated[
        list[str], typer.Option(help="NAME, or NAME:QUALITIES as in jpeg:5,12,25 or ditic-small:1..4; once for each codec.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for JSON, table, plot and crops.")],
    anchor: Annotated[str | None, typer.Option(help="Codec that BD-rates are against; the last one by default.")] = None,
    crops: Annotated[int, typer.Option(min=0, help="Photos on the contact sheet, the worst ones.")] = 12,
    lpips_weights: Annotated[Path | None, typer.Option(help="State dict of lpips.LPIPS: adds LPIPS.")] = None,
    dists_weights: Annotated[Path | None, typer.Option(help="State dict of DISTS_pytorch.DISTS: adds DISTS.")] = None,
    fid_weights: Annotated[
        Path | None, typer.Option(help="Inception's state dict from torch-fidelity: adds FID/256, for 2,049 patches or more.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    weights: Weights = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Measure rate and quality of codecs over photos: table, BD-rates, plot, contact sheet and JSON."""
    from jobs.outputs import check_outputs
    from jobs.settings import load_settings
    from pipeline.codecs.points import parse_points

    points = list(dict.fromkeys(point for spec in codec for point in parse_points(spec)))
    names = list(dict.fromkeys(point.codec for point in points))
    anchor = anchor or names[-1]
    if anchor not in names:
        raise SettingError(f"--anchor {anchor} is none of the codecs: choose one of {', '.join(names)}")
    check_outputs(out, OUTPUTS, overwrite=overwrite)
    settings = load_settings(config, device=device, weights=weights)

    from jobs.progress import shown
    from pipeline.codecs.neural.device import choose_device
    from pipeline.evaluation.run import evaluate as run
    from pipeline.quality.scorer import Scorer

    where = choose_device(settings.device)
    scorer = Scorer(lpips_weights=lpips_weights, dists_weights=dists_weights, fid_weights=fid_weights, device=where)
    limits = settings.limits()
    with shown(verb="evaluating", as_json=as_json) as show:
        show.wait("loading the codecs; the first photo is on its way")
        options = settings.codec_options()
        result = run(photos, points, scorer, options=options, limits=limits, on_progress=show.progress)
    bd_rates = result.bd_rates(anchor)
    summary = _summary(result, bd_rates, anchor)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / "evaluation.json", result, summary)
    tables = [_means_table(result), *([_bd_table(result, bd_rates, anchor)] if bd_rates else [])]
    _write_table(out / "table.txt", tables)
    _draw(result, out, settings, num_crops=crops)
    _tell(result, summary, tables, out, as_json=as_json)
    if result.failed:
        raise typer.Exit(3)


def _summary(result: Evaluation, bd_rates: dict[str, dict[str, BDRate]], anchor: str) -> dict[str, Any]:
    return {
        "photoark": version("photoark"),
        "source": result.source,
        "num_photos": len(result.photos),
        "models": result.models,
        "num_patches": result.num_patches,
        "metrics": {m.key: {"label": m.label, "is_distance": m.is_distance} for m in result.metrics},
        "means": [{**asdict(mean.at), "bpp": mean.bpp, "scores": mean.scores} for mean in result.means()],
        "anchor": anchor,
        "bd_rate": {codec: {key: asdict(rate) for key, rate in rates.items()} for codec, rates in bd_rates.items()},
        "failures": [
            {"photo": f.photo, "codec": f.at and f.at.codec, "quality": f.at and f.at.quality, "reason": f.reason}
            for f in result.failed
        ],
    }


def _write_json(path: Path, result: Evaluation, summary: dict[str, Any]) -> None:
    rows = [
        {
            "photo": m.photo, **asdict(m.at), "width": m.width, "height": m.height,
            "num_bytes": m.num_bytes, "bpp": m.bpp, "scores": m.scores,
        }
        for m in result.measured
    ]  # fmt: skip
    path.write_text(json.dumps({**summary, "results": rows}, indent=1, allow_nan=False) + "\n")


def _means_table(result: Evaluation) -> Table:
    title = f"Means over {len(result.photos)} photos"
    if result.num_patches is not None:
        title += f"; FID over their {result.num_patches:,} patches of 256 x 256" + ("" if result.fid else ": too few")
    table = _table(title, ["codec", "quality", "bpp", *(m.label for m in result.metrics)])
    for mean in result.means():
        quality = "" if mean.at.quality is None else str(mean.at.quality)
        scores = [_number(mean.scores[metric.key], metric) for metric in result.metrics]
        table.add_row(mean.at.codec, quality, f"{mean.bpp:.3f}", *scores)
    return table


def _bd_table(result: Evaluation, bd_rates: dict[str, dict[str, BDRate]], anchor: str) -> Table:
    table = _table(f"BD-rate against {anchor}: rate at equal quality", ["codec", *(m.label for m in result.metrics)])
    for codec, rates in bd_rates.items():
        table.add_row(codec, *(_percent(rates[metric.key]) for metric in result.metrics))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _number(score: float | None, metric: Metric) -> str:
    return "none" if score is None else f"{score:.{metric.digits}f}"


def _percent(rate: BDRate) -> str:
    if rate.percent is None:
        return rate.reason or ""
    return f"{rate.percent:+.1f}% over {rate.overlap:.0%}"


def _write_table(path: Path, tables: Sequence[Table]) -> None:
    from rich.console import Console

    with path.open("w") as file:
        Console(file=file, width=TABLE_WIDTH).print(*tables)


def _draw(result: Evaluation, out: Path, settings: Settings, *, num_crops: int) -> None:
    from pipeline.quality.plot import plot

    curves = [(metric, {codec: result.curve(codec, metric) for codec in result.codecs}) for metric in result.metrics]
    panels = [(metric, {codec: points for codec, points in lines.items() if points}) for metric, lines in curves]
    panels = [(metric, lines) for metric, lines in panels if lines]
    if panels:
        title = f"{len(result.photos)} photos: mean over photos at each quality"
        plot(panels, title=title, files=[out / "rate_distortion.png", out / "rate_distortion.svg"])
    worst = result.worst_first()[:num_crops]
    if worst:
        _contact_sheet(result, worst, out / "crops.png", settings)


def _contact_sheet(result: Evaluation, worst: Sequence[str], path: Path, settings: Settings) -> None:
    from pipeline.evaluation.run import at_equal_rate
    from pipeline.quality.contact_sheet import CROP_SIDE, busiest_square, contact_sheet, crops_strip

    tiles: dict[str, list[tuple[str, Any]]] = {photo: [] for photo in worst}
    limits = settings.limits()
    for restored in at_equal_rate(result, worst, options=settings.codec_options(), limits=limits):
        top, left = busiest_square(restored.original, CROP_SIDE)
        window = slice(top, top + CROP_SIDE), slice(left, left + CROP_SIDE)
        row = tiles[restored.photo]
        # Copies, or the whole photos would stay in memory.
        if not row:
            row.append(("original", restored.original[window].copy()))
        row.append((f"{restored.at}, {restored.bpp:.3f} bpp", restored.decoded[window].copy()))
    contact_sheet(
        [crops_strip(row, caption=photo) for photo, row in tiles.items()],
        title=f"The worst of {len(result.photos)} photos first, by the perceptual distance that {result.codecs[0]} leaves",
        legend="the busiest part of each, pixel for pixel, at nearly equal rate; bits per pixel are of the whole photo",
    ).save(path)


def _tell(result: Evaluation, summary: dict[str, Any], tables: Sequence[Table], out: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"event": "summary", **summary}, allow_nan=False))
        return
    from rich.console import Console

    Console(width=TABLE_WIDTH).print(*tables)
    typer.echo(f"Results, table, plot and crops: {out}")
    for failure in result.failed:
        where = "" if failure.at is None else f" ({failure.at})"
        say(f"failed: {failure.photo}{where}: {failure.reason}", err=True)
