"""What an encode job would come to, from a sample of its photos; nothing is written and Ray is not started."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.archive.commit import Archive
from pipeline.errors import ArchiveNotFoundError
from pipeline.records import Photo, Skipped, encoded_from_table, photos_to_table
from pipeline.sources.folder import list_source
from pipeline.stages.changes import find_work
from pipeline.stages.encode import EncodeJob
from pipeline.stages.encode_worker import EncodeWorker
from pipeline.stages.reading import read_block
from pipeline.stages.work import split_work

NUM_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What there is to do, and what it may come to."""

    num_photos: int
    """In the source."""
    num_todo: int
    """Of these, not in the archive, or changed since."""
    num_changed: int
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
    job.check()
    listing = list_source(job.source, job.selection)
    try:
        archive = Archive.open(job.archive)
    except ArchiveNotFoundError:
        archive = None
    work = find_work(listing.photos, archive, selection=job.selection)
    todo = list(work.todo.values())
    bytes_todo = sum(photo.size_bytes for photo in todo)
    num_failures = sampled_bytes = stream_bytes = num_pixels = 0
    elapsed_s = 0.0
    sample = _spread(todo)
    if sample:
        worker = EncodeWorker(job.settings())
        worker(read_block(photos_to_table(sample[:1])))  # warm: kernels are compiled and memory is claimed
        start_s = time.perf_counter()
        for photo in sample:
            rows, (done,) = split_work(worker(read_block(photos_to_table([photo]))))
            num_pixels += done.num_pixels
            (row,) = encoded_from_table(rows)
            num_failures += row.outcome == "failed"
            sampled_bytes += photo.size_bytes
            stream_bytes += len(row.image or b"")
        elapsed_s = time.perf_counter() - start_s
    factor = bytes_todo / sampled_bytes if sampled_bytes else 0.0
    return Estimate(
        num_photos=len(listing.photos),
        num_todo=len(todo),
        num_changed=len(work.seen),
        not_stored=work.not_stored,
        bytes_todo=bytes_todo,
        num_sampled=len(sample),
        num_sample_failures=num_failures,
        expected_bytes=round(factor * stream_bytes),
        expected_s=round(factor * elapsed_s, 1),
        expected_megapixels=round(factor * num_pixels / 1e6, 2),
        s_per_megapixel=elapsed_s / (num_pixels / 1e6) if num_pixels else 0.0,
        skipped=listing.skipped,
    )


def _spread(photos: list[Photo]) -> list[Photo]:
    """At most `NUM_SAMPLES` photos, evenly over the sizes."""
    by_size = sorted(photos, key=lambda photo: photo.size_bytes)
    num = min(NUM_SAMPLES, len(by_size))
    return [by_size[(2 * i + 1) * len(by_size) // (2 * num)] for i in range(num)]
