"""Rate-distortion curves as a picture: one panel a metric, one line a codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.quality.rate_distortion import Metric

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Codec -> (bits per pixel, score) of each quality."""


def plot(panels: Sequence[tuple[Metric, Curves]], *, title: str, files: Sequence[Path]) -> None:
    """Draw the curves, rate on a logarithmic axis, better upwards, and save them as each of `files` (PNG, SVG, PDF)."""
    # Not pyplot: it keeps every figure, and chooses a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    num_columns = min(len(panels), 2)
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(6.4 * num_columns, 4.4 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for i, (metric, curves) in enumerate(panels):
        axes = figure.add_subplot(num_rows, num_columns, i + 1)
        for codec, points in curves.items():
            rates, scores = zip(*sorted(points), strict=True)
            axes.plot(rates, [metric.axis(score) for score in scores], marker="o", markersize=4, label=codec)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("bits per pixel")
        axes.set_ylabel(metric.axis_label or metric.label)
        if metric.is_distance:
            axes.invert_yaxis()
        axes.grid(alpha=0.3)
        axes.legend()
    for file in files:
        figure.savefig(file, dpi=150)
