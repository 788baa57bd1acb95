"""A job's report: report.json for programs, and report.html, a page that needs no other file and no network."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.watch import Watch
    from pipeline.stages.history import History
    from pipeline.stages.summary import JobSummary


def write_report(folder: Path, summary: JobSummary, history: History, watch: Watch) -> None:
    """Write both files into `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "summary": asdict(summary),
        "history": history.as_dict(),
        "machines": {
            "events": [asdict(event) for event in watch.events],
            "most_gpus": watch.most_gpus,
            "gpu_hours": round(watch.gpu_s / 3600, 6),
            "machine_hours": round(watch.node_s / 3600, 6),
        },
    }
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "report.html").write_text(_page(summary, history, watch), encoding="utf-8")


def _page(summary: JobSummary, history: History, watch: Watch) -> str:
    facts = {
        "photos": summary.num_photos,
        "encoded": summary.num_encoded,
        "kept as they are": summary.num_kept,
        "failed": summary.num_failed,
        "there already": summary.num_skipped,
        "ended": "at a limit; the same command goes on" if summary.stopped else "when all was done",
        "bytes in, out": f"{summary.bytes_in:,}, {summary.bytes_out:,}",
        "seconds": f"{summary.elapsed_s:.1f}",
        "first commit after": "none" if history.first_commit_s is None else f"{history.first_commit_s:.1f} s",
        "codec busy, of the actors' time": f"{history.busy_ratio():.1%}",
        "most GPUs at once": watch.most_gpus,
        "GPU-hours, machine-hours": f"{watch.gpu_s / 3600:.3f}, {watch.node_s / 3600:.3f}",
    }
    machines = {
        f"{event.at_s:.1f} s": f"{'came' if event.joined else 'went'}: {event.num_cpus:g} cores, {event.num_gpus:g} GPUs"
        for event in watch.events
    }
    actors = {
        f"{name[:8]} on {actor.node[-8:]}": f"{actor.first_s:.1f} s to {actor.last_s:.1f} s, {actor.photos} photos, "
        f"codec {actor.codec_s:.1f} s"
        for name, actor in history.actors.items()
    }
    stages = {stage: f"{took_s:.1f} s" for stage, took_s in history.stages_s.items()}
    parts = [
        "<!doctype html><meta charset='utf-8'><title>photoark: report of a job</title>",
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}td{padding:.1em 1em .1em 0}svg{width:100%}</style>",
        "<h1>Report of a job</h1>",
        _table(facts),
        _plot(history, watch),
        "<h2>Time by stage, all actors and the driver together</h2>",
        _table(stages),
        "<h2>Actors</h2>",
        _table(actors),
        "<h2>Machines</h2>",
        _table(machines),
        "<h2>Failures</h2>" if summary.failures else "",
        _table(dict(summary.failures)),
    ]
    return "\n".join(parts) + "\n"


def _table(rows: Mapping[str, object]) -> str:
    cells = "".join(f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _plot(history: History, watch: Watch) -> str:
    """Photos a second, busy codecs and GPUs over time, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    photos, busy, machines = figure.subplots(3, 1, sharex=True)
    times_s = [i * history.bin_s for i in range(len(history.bins) + 1)]
    photos.stairs([one.photos / history.bin_s for one in history.bins], times_s)
    photos.set_ylabel("photos/s")
    busy.stairs([one.codec_s / history.bin_s for one in history.bins], times_s)
    busy.set_ylabel("codecs at work")
    here, steps = 0.0, [(0.0, 0.0)]
    for event in watch.events:
        here += (1 if event.joined else -1) * (event.num_gpus if watch.most_gpus else 1)
        steps.append((event.at_s, here))
    steps.append((max(times_s[-1], steps[-1][0]), here))
    machines.step(*zip(*steps, strict=True), where="post")
    machines.set_ylabel("GPUs" if watch.most_gpus else "machines")
    machines.set_xlabel("seconds")
    for axes in (photos, busy, machines):
        axes.set_ylim(bottom=0)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]
