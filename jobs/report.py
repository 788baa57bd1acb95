"""A job's report: report.json for programs, and report.html, a page that needs no other file and no network.

The page shows savings, failures and photos first, then machines and time.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.phrases import count, duration, shrinkage
from jobs.summaries import generative_notice
from pipeline.codecs.registry import is_generative

if TYPE_CHECKING:
    from cluster.watch import NodeEvent, Watch
    from jobs.examples import Example
    from pipeline.encode.history import History
    from pipeline.job_summary import JobSummary

_MAX_FAILURES = 200
"""That the page names."""
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}h1{font-size:2em}"
    "td{padding:.1em 1em .1em 0;vertical-align:top;overflow-wrap:anywhere}svg,img{width:100%;height:auto}"
    "ul{list-style:none;padding:0}.notice{border-left:4px solid #c60;padding-left:.8em}figure{margin:1.5em 0}"
)


def write_report(folder: Path, summary: JobSummary, history: History, watch: Watch, examples: Sequence[Example] = ()) -> None:
    """Write both files into `folder`, which is made.

    Args:
        examples: photos beside what comes back of them, for the page.
    """
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
    (folder / "report.html").write_text(_page(summary, history, watch, examples), encoding="utf-8")


def _page(summary: JobSummary, history: History, watch: Watch, examples: Sequence[Example]) -> str:
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>photoark: report of a job</title><style>{_STYLE}</style>",
        *_savings(summary),
        *_failures(summary),
        *_photos(examples),
        *_machinery(summary, history, watch),
    ]
    return "\n".join(parts) + "\n"


def _savings(summary: JobSummary) -> list[str]:
    headline = "Nothing was encoded"
    if summary.bytes_stored:
        headline = shrinkage(summary.bytes_stored, summary.bytes_out)
    facts = [
        (summary.num_photos, "file in the source", "files in the source"),
        (summary.num_encoded, "photo encoded", "photos encoded"),
        (summary.num_kept, "file kept as it is", "files kept as they are"),
        (summary.num_shared, "file shares the stream of another", "files share the stream of another"),
        (summary.num_skipped, "file was there already", "files were there already"),
        (summary.num_failed, "file failed", "files failed"),
    ]
    generative = [codec for codec in summary.codecs if is_generative(codec)]
    return [
        f"<h1>{escape(headline)}</h1>",
        f"<ul>{''.join(f'<li>{escape(count(*fact))}</li>' for fact in facts if fact[0])}</ul>",
        "<p>The job stopped at a limit; the same command goes on from there.</p>" if summary.stopped else "",
        f"<p class='notice'>{escape(generative_notice(generative))}</p>" if generative else "",
    ]


def _failures(summary: JobSummary) -> list[str]:
    reasons = summary.not_stored | dict(summary.failures)
    if not reasons:
        return []
    more = len(reasons) - _MAX_FAILURES
    return [
        f"<h2>{escape(count(len(reasons), 'file failed', 'files failed'))}</h2>",
        _table(dict(islice(reasons.items(), _MAX_FAILURES))),
        f"<p>{more:,} more are in report.json.</p>" if more > 0 else "",
    ]


def _photos(examples: Sequence[Example]) -> list[str]:
    if not examples:
        return []
    legend = "The source, what comes back, and the busiest part of each, pixel for pixel."
    return ["<h2>Photos</h2>", f"<p>{legend}</p>", *map(_figure, examples)]


def _figure(example: Example) -> str:
    key, caption = escape(example.key, quote=True), escape(example.caption)
    picture = f"data:image/jpeg;base64,{b64encode(example.strip).decode()}"
    return f"<figure><figcaption><b>{key}</b><br>{caption}</figcaption><img alt='{key}' src='{picture}'></figure>"


def _machinery(summary: JobSummary, history: History, watch: Watch) -> list[str]:
    facts = {
        "time": duration(summary.elapsed_s),
        "first commit after": None if history.first_commit_s is None else duration(history.first_commit_s),
        "codec busy, of the actors' time": f"{history.busy_ratio():.1%}" if history.actors else None,
        "most GPUs at once": watch.most_gpus or None,
        "GPU-hours": f"{watch.gpu_s / 3600:.3f}" if watch.gpu_s else None,
        "machine-hours": f"{watch.node_s / 3600:.3f}" if watch.node_s else None,
    }
    machines = [(f"{event.at_s:.1f} s", _event(event)) for event in watch.events]
    actors = {
        f"{name[:8]} on {actor.node[-8:]}": f"{actor.first_s:.1f} s to {actor.last_s:.1f} s, {actor.photos} photos, "
        f"codec {actor.codec_s:.1f} s"
        for name, actor in history.actors.items()
    }
    stages = {stage: f"{took_s:.1f} s" for stage, took_s in history.stages_s.items()}
    return [
        "<h2>Machines and time</h2>",
        _table({name: fact for name, fact in facts.items() if fact is not None}),
        _plot(history, watch),
        "<h3>Time by stage, all actors and the driver together</h3>",
        _table(stages),
        "<h3>Actors</h3>",
        _table(actors),
        "<h3>Machines</h3>",
        _table(machines),
    ]


def _event(event: NodeEvent) -> str:
    gpus = f", {count(round(event.num_gpus), 'GPU')}" if event.num_gpus else ""
    return f"{'came' if event.joined else 'went'}: {count(round(event.num_cpus), 'core')}{gpus}"


def _table(rows: Mapping[str, object] | Sequence[tuple[str, object]]) -> str:
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    cells = "".join(f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>" for name, value in pairs)
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
