"""What an encode job would come to, from a sample of its photos; nothing is written and Ray is not started."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.archive.reader import Archive
from pipeline.encode.job import EncodeJob
from pipeline.errors import ArchiveNotFoundError
from pipeline.records import Photo, Skipped, encoded_from_table, photos_to_table
from pipeline.sources.folder import check_places, list_source

NUM_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What there is to do, and what it may come to."""

    num_photos: int
    """In the source."""
    num_todo: int
    """Of these, not in the archive, changed since, or to be encoded again."""
    num_new: int
    num_changed: int
    num_recoded: int
    """Of those to do, encoded again because another recipe had made their rows, with those that share their streams."""
    other_recipes: dict[str, int]
    """Recipe, or codec where a row records none -> rows that the job would make otherwise."""
    num_unknown_recipe: int
    """Rows that record no recipe and whose codec is the job's."""
    not_stored: dict[str, str]
    """Key -> reason, of photos that failed in an earlier job; those that changed since are among the photos to do."""
    bytes_todo: int
    num_sampled: int
    num_sample_failures: int
    expected_bytes: int
    """Of the bitstreams of all there is to do."""
    expected_s: float
    """With this machine's codec alone, one process."""
    expected_megapixels: float
    s_per_megapixel: float
    """Of one process on this machine."""
    skipped: tuple[Skipped, ...] = ()
    """What the listing of the source left out, by reason."""


def estimate(job: EncodeJob) -> Estimate:
    """Count what `job` has to do, encode a few photos from the smallest to the largest in memory, and extrapolate by bytes.

    Raises:
        SettingError: the source does not exist, or a setting is wrong.
        CheckpointError: the codec's weights are missing or damaged.
        ArchiveError: the archive cannot be opened.
    """
    job.check_settings()
    check_places(job.source, job.archive)
    listing = list_source(job.source, job.selection)
    try:
        archive = Archive.open(job.archive)
    except ArchiveNotFoundError:
        archive = None
    work = job.find_work(listing, archive)
    todo = list(work.todo.values())
    bytes_todo = sum(photo.size_bytes for photo in todo)
    sample = _spread(todo)
    tried = _try(job, sample) if sample else _Tried()
    factor = bytes_todo / tried.bytes_in if tried.bytes_in else 0.0
    return Estimate(
        num_photos=len(listing.photos),
        num_todo=len(todo),
        num_new=len(work.todo.keys() - work.seen.keys()),
        num_changed=len(work.seen) - len(work.recoding),
        num_recoded=len(work.recoding) + sum(work.recoding.values()),
        other_recipes=dict(work.other_recipes),
        num_unknown_recipe=work.num_unknown_recipe,
        not_stored=work.not_stored,
        bytes_todo=bytes_todo,
        num_sampled=len(sample),
        num_sample_failures=tried.num_failed,
        expected_bytes=round(factor * tried.bytes_out),
        expected_s=round(factor * tried.elapsed_s, 1),
        expected_megapixels=round(factor * tried.num_pixels / 1e6, 2),
        s_per_megapixel=tried.elapsed_s / (tried.num_pixels / 1e6) if tried.num_pixels else 0.0,
        skipped=listing.skipped,
    )


@dataclass(slots=True, kw_only=True)
class _Tried:
    num_failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    num_pixels: int = 0
    elapsed_s: float = 0.0


def _try(job: EncodeJob, sample: list[Photo]) -> _Tried:
    """Encode photos in this process."""
    from pipeline.encode.read import read_block
    from pipeline.encode.worker import EncodeWorker  # here: with nothing to do, neither torch nor Ray is loaded
    from pipeline.on_ray.work import split_work

    job.check()
    worker = EncodeWorker(job.settings())
    worker(read_block(photos_to_table(sample[:1])))  # warm: kernels are compiled and memory is claimed
    tried, start_s = _Tried(), time.perf_counter()
    for photo in sample:
        rows, (done,) = split_work(worker(read_block(photos_to_table([photo]))))
        (row,) = encoded_from_table(rows)
        tried.num_pixels += done.num_pixels
        tried.num_failed += row.outcome == "failed"
        tried.bytes_in += photo.size_bytes
        tried.bytes_out += len(row.image or b"")
    tried.elapsed_s = time.perf_counter() - start_s
    return tried


def _spread(photos: list[Photo]) -> list[Photo]:
    """At most `NUM_SAMPLES` photos, evenly over the sizes."""
    by_size = sorted(photos, key=lambda photo: photo.size_bytes)
    num = min(NUM_SAMPLES, len(by_size))
    return [by_size[(2 * i + 1) * len(by_size) // (2 * num)] for i in range(num)]
