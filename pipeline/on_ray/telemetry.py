"""What a dashboard shows of running jobs, through Ray's metrics; Prometheus sees each name with `ray_` before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.on_ray.work import BlockWork
from pipeline.records import EncodedPhoto

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]


@dataclass(frozen=True, slots=True)
class _Metrics:
    photos: Counter
    bytes_in: Counter
    bytes_out: Counter
    commits: Counter
    commit_rows: Counter
    stage_seconds: Histogram
    bpp: Histogram
    psnr_db: Histogram
    ms_ssim: Histogram
    backlog: Gauge
    codec_busy: Gauge


def record_block(rows: Sequence[EncodedPhoto], work: BlockWork) -> None:
    """Count, in an actor, the rows of one call and the time that each of its stages took. Without Ray, nothing."""
    if not ray.is_initialized():
        return
    metrics = _metrics()
    for stage, took_s in (("read", work.read_s), ("pixels", work.pixels_s), ("wait", work.wait_s), ("codec", work.codec_s)):
        metrics.stage_seconds.observe(took_s, {"stage": stage})
    for row in rows:
        metrics.photos.inc(1, {"stage": "encode", "outcome": "same" if row.same_as else str(row.outcome)})
        for counter, size in ((metrics.bytes_in, row.source_bytes), (metrics.bytes_out, len(row.image or b""))):
            if size:  # Ray's counters refuse to count nothing
                counter.inc(size)
        for histogram, value in ((metrics.bpp, row.bpp), (metrics.psnr_db, row.psnr), (metrics.ms_ssim, row.ms_ssim)):
            if value is not None:
                histogram.observe(value)


def record_restored(*, num_restored: int, num_failed: int, bytes_out: int) -> None:
    """Count, in an actor, photos that were decoded and written."""
    if not ray.is_initialized():
        return
    for outcome, number in (("restored", num_restored), ("failed", num_failed)):
        if number:
            _metrics().photos.inc(number, {"stage": "decode", "outcome": outcome})
    if bytes_out:
        _metrics().bytes_out.inc(bytes_out)


def record_commit(num_rows: int, took_s: float) -> None:
    """Count, in the driver, one commit."""
    if not ray.is_initialized():
        return
    metrics = _metrics()
    metrics.commits.inc()
    metrics.commit_rows.inc(num_rows)
    metrics.stage_seconds.observe(took_s, {"stage": "commit"})


def record_state(*, backlog_photos: int, codec_busy_ratio: float) -> None:
    """Show, in the driver, what is left to do, and which share of their time the codecs of all actors work."""
    if not ray.is_initialized():
        return
    _metrics().backlog.set(backlog_photos)
    _metrics().codec_busy.set(codec_busy_ratio)


@lru_cache(maxsize=1)
def _metrics() -> _Metrics:
    # Made on first use, in whatever process: at import there is no Ray to register with.
    return _Metrics(
        photos=Counter("photoark_photos_total", "Photos by what became of them", ("stage", "outcome")),
        bytes_in=Counter("photoark_bytes_in_total", "Bytes of source files read"),
        bytes_out=Counter("photoark_bytes_out_total", "Bytes of bitstreams, or of restored files"),
        commits=Counter("photoark_commits_total", "Commits to archives"),
        commit_rows=Counter("photoark_commit_rows_total", "Rows committed to archives"),
        stage_seconds=Histogram("photoark_stage_seconds", "Time of a block of photos in a stage", _SECONDS, ("stage",)),
        bpp=Histogram("photoark_bpp", "Bits per pixel", [0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 1, 2, 4, 8]),
        psnr_db=Histogram("photoark_psnr_db", "PSNR of decoded streams, decibels", [20, 24, 26, 28, 30, 32, 34, 38, 42]),
        ms_ssim=Histogram("photoark_ms_ssim", "MS-SSIM of decoded streams", [0.8, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995]),
        backlog=Gauge("photoark_backlog_photos", "Photos that the running job has still to do"),
        codec_busy=Gauge("photoark_codec_busy_ratio", "Share of the time in which codecs worked"),
    )
