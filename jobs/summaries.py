"""What `encode`, `retry` and `decode` say at their end: one fact a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import typer

from jobs.logs import tell
from jobs.phrases import count, duration, name_files, show, shrinkage, size

if TYPE_CHECKING:
    from pipeline.encode.estimate import Estimate
    from pipeline.encode.job import EncodeJob
    from pipeline.job_summary import JobSummary
    from pipeline.records import Skipped

INCOMPLETE = 3
"""Exit code of a command that is done, where photos are not stored or did not come back."""


def generative_notice(codecs: Iterable[str]) -> str:
    """What there is to know of codecs that synthesise detail."""
    names = list(codecs)
    are = "is a generative codec" if len(names) == 1 else "are generative codecs"
    return f"{' and '.join(names)} {are}: part of the detail in restored photos is synthesised. Keep the sources."


def announce(job: EncodeJob, *, as_json: bool) -> None:
    """Say at the start of a job if one of its codecs is generative."""
    if not job.generative_codecs:
        return
    notice = generative_notice(job.generative_codecs)
    if as_json:
        typer.echo(json.dumps({"event": "notice", "generative_codecs": job.generative_codecs, "message": notice}))
    else:
        tell(notice, generative_codecs=job.generative_codecs)


def show_generative(codecs: Iterable[str]) -> None:
    """Say at the end which of the codecs that served are generative."""
    from pipeline.codecs.registry import is_generative

    if names := [codec for codec in codecs if is_generative(codec)]:
        show(generative_notice(names))


def show_encoded(summary: JobSummary) -> None:
    """Say what `encode` came to; photos of which the archive holds nothing are named, also those of earlier runs."""
    earlier = {key: why for key, why in summary.not_stored.items() if key not in dict(summary.failures)}
    num_gone = summary.num_gone - len(summary.gone_failures)
    show(
        (summary.num_photos, "file in the source", "files in the source"),
        *_stored(summary),
        (summary.num_changed, "file had changed", "files had changed"),
        (summary.num_recoded, "file was stored by another recipe", "files were stored by another recipe"),
        (summary.num_updated, "file has another time and the same bytes", "files have another time and the same bytes"),
        (summary.num_skipped - len(earlier), "file was stored already", "files were stored already"),
        (
            summary.num_stored_meanwhile,
            "file was stored by another job meanwhile",
            "files were stored by another job meanwhile",
        ),
        (num_gone, "file in the archive is gone from the source", "files in the archive are gone from the source"),
        (
            len(summary.gone_failures),
            f"file that failed {_GONE.format('is', 'its row')}",
            f"files that failed {_GONE.format('are', 'their rows')}",
        ),
        *_failed(summary),
        *_costs(summary),
    )
    show_generative(summary.codecs)
    show_recipes(summary.num_other_recipe, summary.other_recipes, summary.num_unknown_recipe)
    show_skipped(summary.skipped)
    name_files("failed", summary.failures)
    name_files("not stored", earlier)
    name_files("gone", summary.gone_failures)
    one, many = (f"{words}; photoark retry SRC ARCHIVE tries again" for words in _NOT_STORED)
    show((len(summary.not_stored), one, many))


def show_retried(summary: JobSummary) -> None:
    """Say what `retry` came to."""
    left = {key: why for key, why in summary.not_stored.items() if key not in dict(summary.failures)}
    num_gone, num_dropped = summary.num_skipped, len(summary.gone_failures)
    show(
        (summary.num_photos, "file had failed", "files had failed"),
        *_stored(summary),
        *_failed(summary),
        (num_gone, "file is gone from the source", "files are gone from the source"),
        (
            num_dropped,
            "row was taken out: there is nothing left to store",
            "rows were taken out: there is nothing left to store",
        ),
        *(["their rows stay: the source has no file of this archive; is it the right one?"] if num_gone > num_dropped else []),
        *_costs(summary),
    )
    show_generative(summary.codecs)
    show_skipped(skipped for skipped in summary.skipped if not skipped.reason.is_harmless)
    name_files("failed", summary.failures)
    name_files("not stored", left)
    name_files("gone", summary.gone_failures)
    show((len(summary.not_stored), *_NOT_STORED))


def show_decoded(summary: JobSummary) -> None:
    """Say what `decode` came to."""
    show(
        (summary.num_photos + summary.num_left_out, "photo in the archive", "photos in the archive"),
        (summary.num_left_out, "photo left out by --include and --exclude", "photos left out by --include and --exclude"),
        (summary.num_restored, "photo restored", "photos restored"),
        (summary.num_skipped, "photo was there already", "photos were there already"),
        (summary.num_failed, "photo not restored", "photos not restored"),
        (summary.num_unwritten, f"of them {_RESUME}", f"of them {_RESUME}"),
        *([f"{size(summary.bytes_out)} written"] if summary.bytes_out else []),
        f"took {duration(summary.elapsed_s)}",
    )
    name_files("failed", summary.failures)


def show_estimate(estimate: Estimate) -> None:
    """Say what `encode --dry-run` expects."""
    show(
        (estimate.num_photos, "file in the source", "files in the source"),
        (estimate.num_photos - estimate.num_todo, "file is in the archive already", "files are in the archive already"),
        (len(estimate.not_stored), "of its rows failed and is not stored", "of its rows failed and are not stored"),
        (estimate.num_new, "file is new", "files are new"),
        (estimate.num_changed, "file changed", "files changed"),
        (estimate.num_recoded, "file is stored by another recipe", "files are stored by another recipe"),
    )
    if estimate.num_sampled:
        show(
            f"{size(estimate.bytes_todo)} to encode",
            f"{size(estimate.expected_bytes)} expected, from {count(estimate.num_sampled, 'sample')}",
            (estimate.num_sample_failures, "of the samples failed", "of the samples failed"),
            f"{duration(estimate.expected_s)} expected, with one process on this machine",
        )
    else:
        show("nothing to encode")
    num_left = sum(estimate.other_recipes.values()) - estimate.num_recoded
    show_recipes(num_left, estimate.other_recipes, estimate.num_unknown_recipe)
    show_skipped(estimate.skipped)
    name_files("not stored", estimate.not_stored)


def show_recipes(num_other: int, recipes: Mapping[str, int], num_unknown: int) -> None:
    """Say how many rows an earlier job made otherwise than this one would, and how to encode them again."""
    if num_other:
        first = Counter(recipes).most_common(_RECIPES_SHOWN)
        named = ", ".join(recipe for recipe, _ in first) + (", ..." if len(recipes) > len(first) else "")
        files = count(num_other, "file is stored by another recipe", "files are stored by another recipe")
        show(f"{files} ({named}); encode --recode encodes again what the source still has")
    one, many = "file does not record its recipe", "files do not record their recipe"
    note = "an earlier version stored them; as far as their codec tells, it is this one, and they stay"
    show(*([f"{count(num_unknown, one, many)}: {note}"] if num_unknown else []))


def show_skipped(skipped: Iterable[Skipped]) -> None:
    """Say what the listing of a source left out, and name what may have held photos."""
    for entries in skipped:
        example = f", such as {entries.first[0]}" if entries.reason.is_harmless else ""
        show(f"{entries.num_entries:,} left out: {entries.reason}{example}")
        if not entries.reason.is_harmless:
            for name in entries.first:
                tell(f"left out: {name}")


_RECIPES_SHOWN = 3
_GONE = "{} gone from the source; photoark retry SRC ARCHIVE takes {} out"
_RESUME = "could not be written; once that is mended, the same command with --resume writes what is missing"
_NOT_STORED = ("file is not stored", "files are not stored")


def _stored(summary: JobSummary) -> list[tuple[int, str, str]]:
    return [
        (summary.num_encoded, "photo encoded", "photos encoded"),
        (summary.num_kept, "file kept as it is", "files kept as they are"),
        (summary.num_shared, "file shares the stream of another", "files share the stream of another"),
    ]


def _failed(summary: JobSummary) -> list[tuple[int, str, str]]:
    return [
        (summary.num_failed, "file failed", "files failed"),
        (summary.num_outdated, "of them is stored as it was before", "of them are stored as they were before"),
    ]


def _costs(summary: JobSummary) -> list[str]:
    sizes = [shrinkage(summary.bytes_stored, summary.bytes_out)] if summary.bytes_stored else []
    num_done = summary.num_new + summary.num_changed + summary.num_recoded + summary.num_stored_meanwhile
    return [*sizes, f"took {duration(summary.elapsed_s)}"] if num_done else ["nothing to encode"]
