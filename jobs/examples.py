"""A few photos of a job, each beside what comes back of it, for the job's report."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.phrases import shrinkage

if TYPE_CHECKING:
    from pipeline.archive.reader import Archive
    from pipeline.encode.job import EncodeJob

log = logging.getLogger(__name__)
_MAX_EXAMPLES = 6
_MAX_S = 30.0
"""After the first photo; then no further one is decoded."""
_MAX_PIXELS = 50_000_000
_MAX_WEIGHTS_BYTES = 256 << 20
"""Of a codec that is loaded on a CPU for this alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One photo."""

    key: str
    caption: str
    strip: bytes
    """JPEG: the source and what comes back, then the busiest part of each."""


def examples(job: EncodeJob, keys: Iterable[str]) -> list[Example]:
    """Photos of `keys` that can be shown: of up to six, decoded in half a minute or so. One that cannot be is left out."""
    from pipeline.archive.reader import Archive

    if _is_slow(job):
        return []
    end_s = math.inf
    archive = Archive.open(job.archive)
    found: list[Example] = []
    for key in _spread(list(keys)):
        if time.monotonic() > end_s:
            break
        try:
            found += _example(job, archive, key)
            end_s = min(end_s, time.monotonic() + _MAX_S)  # not for loading the codec
        except Exception:
            # The job is done, whatever is wrong with one of its photos.
            log.warning("a photo cannot be shown in the report", extra={"key": key}, exc_info=True)
    return found


def _is_slow(job: EncodeJob) -> bool:
    """Whether decoding takes a large network on a CPU."""
    from pipeline.codecs.neural.device import choose_device

    weights = job.options.weights
    is_large = weights is not None and weights.stat().st_size > _MAX_WEIGHTS_BYTES
    return is_large and choose_device(job.options.device) == "cpu"


def _spread(keys: list[str]) -> Iterator[str]:
    number = min(_MAX_EXAMPLES, len(keys))
    return (keys[i * len(keys) // number] for i in range(number))


def _example(job: EncodeJob, archive: Archive, key: str) -> Iterator[Example]:
    from pipeline.archive.reader import find
    from pipeline.decode.restore import decode_row
    from pipeline.pixels.sandbox.client import probe, read_pixels
    from pipeline.quality.contact_sheet import strip
    from pipeline.storage.base import fetch

    row = find(archive, key)
    if (row.width or 0) * (row.height or 0) > _MAX_PIXELS:
        return
    restored = decode_row(row, job.options)
    if restored is None:
        return
    data = fetch(row.source_uri).data
    original = read_pixels(data, probe(data, limits=job.limits), limits=job.limits)
    if original.shape != restored.shape:  # the source changed since
        return
    buffer = io.BytesIO()
    strip(original, restored, caption="").save(buffer, "JPEG", quality=85)
    caption = f"{shrinkage(row.source_bytes, len(row.image or b''))}, {row.codec}, {row.width} x {row.height}"
    yield Example(key=key, caption=caption, strip=buffer.getvalue())
