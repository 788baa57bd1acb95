"""`photoark demo`: encode some photos, restore them, verify the archive, and show what became of each.

photos/ -> archive/ -> restored/ -> a table, and contact_sheet.jpg
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import SAMPLE_PHOTOS, Device, Weights
from jobs.summaries import generative_notice
from pipeline.errors import ArchiveDamagedError, SettingError

if TYPE_CHECKING:
    from PIL import Image
    from rich.table import Table

    from pipeline.codecs.registry import CodecOptions
    from pipeline.quality.metrics import Quality
    from pipeline.records import EncodedPhoto

CONTACT_SHEET = "contact_sheet.jpg"
_MARK = ".photoark-demo"
"""An empty file that says that a folder holds what a demo made."""
PHOTO_SUFFIXES = frozenset({".avif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What became of one photo."""

    row: EncodedPhoto
    quality: Quality | None
    """Measured on the restored file; None where there is none."""
    strip: Image.Image | None
    """Its strip of the contact sheet."""


def demo(
    photos: Annotated[Path, typer.Option(help="Folder of photos; it is only read.")] = SAMPLE_PHOTOS,
    out: Annotated[Path, typer.Option(help="Folder for archive, restored photos and contact sheet.")] = Path(".demo"),
    codec: Annotated[str, typer.Option(help="Codec to encode with.")] = "ditic-small",
    quality: Annotated[int | None, typer.Option(help="Of ditic-small: 1 to 4; of jpeg, avif, webp and jxl: 1 to 100.")] = None,
    device: Device = None,
    weights: Weights = None,
) -> None:
    """Encode some photos, restore them, and show how they came back."""
    from rich.console import Console

    from jobs.settings import load_settings
    from pipeline.codecs.registry import get_codec
    from pipeline.quality.contact_sheet import contact_sheet

    console = Console()
    options = load_settings(quality=quality, device=device, weights=weights).codec_options()
    info = get_codec(codec, options).info
    title = " ".join(word for word in (codec, info.model) if word)
    console.print(title, soft_wrap=True)
    if info.generative:
        console.print(generative_notice([codec]), soft_wrap=True)
    source, archive, restored = _fresh_folders(photos, out)
    start_s = time.perf_counter()
    _round_trip(source, archive, restored, codec=codec, options=options)
    duration_s = time.perf_counter() - start_s
    comparisons = _compare(source, archive, restored)
    console.print(f"Encoded, verified and restored in {duration_s:.0f} s; measured on the restored files")
    console.print(_table(comparisons))
    sheet = out / CONTACT_SHEET
    contact_sheet([c.strip for c in comparisons if c.strip is not None], title=title).save(sheet, quality=90)
    console.print(f"Contact sheet, original and restored side by side: {sheet}", soft_wrap=True)


def _fresh_folders(photos: Path, out: Path) -> tuple[Path, Path, Path]:
    """Source, archive and restored folders under `out`, the first with copies of the photos, the others empty."""
    chosen = sorted(path for path in photos.glob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    if not chosen:
        raise SettingError(f"no photos in {photos}; name a folder of photos with --photos")
    # Copies, since the folder may hold other files, such as a list of licences, which would be rows of the archive.
    folders = out / "photos", out / "archive", out / "restored"
    there = [path.name for path in (*folders, out / CONTACT_SHEET) if path.exists()]
    if there and not (out / _MARK).exists():
        raise SettingError(f"{out} holds {', '.join(there)}, perhaps not of a demo: delete it, or name another --out")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    folders[0].mkdir(parents=True)
    (out / _MARK).touch()
    for path in chosen:
        shutil.copy2(path, folders[0])
    return folders


def _round_trip(source: Path, archive: Path, restored: Path, *, codec: str, options: CodecOptions) -> None:
    from cluster.connect import connected
    from jobs.progress import shown
    from pipeline.archive.care.verify import verify
    from pipeline.archive.reader import Archive
    from pipeline.decode.job import DecodeJob
    from pipeline.decode.run import decode
    from pipeline.encode.job import EncodeJob
    from pipeline.encode.run import encode

    with connected():
        with shown(verb="encoding", as_json=False) as show:
            job = EncodeJob(source=str(source), archive=str(archive), codec=codec, options=options)
            encode(job, show.progress, on_wait=show.wait)
        with shown(verb="decoding", as_json=False) as show:
            back = DecodeJob(archive=str(archive), destination=str(restored), options=options)
            decode(back, show.progress, on_wait=show.wait)
    damages = verify(Archive.open(str(archive))).damages
    if damages:
        raise ArchiveDamagedError(f"{archive} is not as it was written: {damages[0].what}")


def _compare(source: Path, archive: Path, restored: Path) -> list[Comparison]:
    from pipeline.archive.reader import Archive, read_rows

    rows = sorted(read_rows(Archive.open(str(archive))), key=lambda row: row.key)
    return [_comparison(row, source / row.key, restored / row.key) for row in rows]


def _comparison(row: EncodedPhoto, original: Path, restored: Path) -> Comparison:
    from pipeline.pixels.formats.reader import read_pixels
    from pipeline.quality.contact_sheet import strip
    from pipeline.quality.metrics import measure

    if row.image is None or not restored.exists():
        return Comparison(row=row, quality=None, strip=None)
    before, after = read_pixels(original.read_bytes()), read_pixels(restored.read_bytes())
    quality = measure(before, after)
    psnr = f"{quality.psnr:.2f} dB" if math.isfinite(quality.psnr) else "exact"
    caption = f"{row.key}    {_rate(row):.3f} bpp    {psnr}"
    return Comparison(row=row, quality=quality, strip=strip(before, after, caption=caption))


def _table(comparisons: Sequence[Comparison]) -> Table:
    from rich import box
    from rich.table import Table

    before = sum(c.row.source_bytes for c in comparisons)
    after = sum(len(c.row.image or b"") for c in comparisons)
    num_pixels = sum((c.row.width or 0) * (c.row.height or 0) for c in comparisons if c.row.image)
    scores = [c.quality for c in comparisons if c.quality is not None]
    footers = {
        "photo": f"{len(comparisons)} photos",
        "pixels": f"{num_pixels / 1e6:.1f} MP",
        "before": f"{before:,}",
        "after": f"{after:,}",
        "bpp": f"{8 * after / num_pixels:.3f}" if num_pixels else "",
        "PSNR": _mean([s.psnr for s in scores if math.isfinite(s.psnr)], digits=2),
        "MS-SSIM": _mean([s.ms_ssim for s in scores if s.ms_ssim is not None], digits=4),
    }
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_footer=True,
        caption="before, after: bytes; PSNR: dB",
        caption_justify="left",
    )
    for name, footer in footers.items():
        table.add_column(name, footer, justify="left" if name == "photo" else "right", no_wrap=True)
    for c in comparisons:
        table.add_row(*_cells(c))
    return table


def _cells(comparison: Comparison) -> list[str]:
    row, quality = comparison.row, comparison.quality
    if row.image is None or quality is None:
        return [row.key, "failed", f"{row.source_bytes:,}"]
    return [
        row.key,
        f"{row.width}x{row.height}",
        f"{row.source_bytes:,}",
        f"{len(row.image):,}",
        f"{_rate(row):.3f}",
        f"{quality.psnr:.2f}" if math.isfinite(quality.psnr) else "exact",
        "too small" if quality.ms_ssim is None else f"{quality.ms_ssim:.4f}",
    ]


def _mean(scores: Sequence[float], *, digits: int) -> str:
    return f"{sum(scores) / len(scores):.{digits}f}" if scores else ""


def _rate(row: EncodedPhoto) -> float:
    from pipeline.quality.metrics import bits_per_pixel

    assert row.image is not None
    assert row.width is not None
    assert row.height is not None
    return bits_per_pixel(len(row.image), width=row.width, height=row.height)
