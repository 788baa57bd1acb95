"""An archive in figures; reads the narrow columns only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.archive.commit import Archive
from pipeline.archive.shard_reader import list_fragments, read_fragment
from pipeline.records import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all rows."""

    num_photos: int
    num_shards: int
    outcomes: dict[str, int]
    codecs: dict[str, int]
    """Codec -> photos; those that failed have none."""
    source_bytes: int
    stored_bytes: int
    """Of `source_bytes`, those of files that are stored: without failures."""
    stream_bytes: int
    """Of the bitstreams and kept files."""
    shard_bytes: int
    """Of the Parquet files."""
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarise(archive: Archive) -> Totals:
    """Totals of an archive.

    Raises:
        ArchiveDamagedError: a shard is missing or damaged.
    """
    outcomes: Counter[str] = Counter()
    codecs: Counter[str] = Counter()
    source_bytes = failed_bytes = stream_bytes = pixels = 0
    # bpp is bits of the stream over pixels: with it, no bitstream need be read to know its size.
    columns = ["outcome", "codec", "source_bytes", "width", "height", "bpp", "same_as"]
    for fragment in list_fragments(archive):
        table = read_fragment(archive.storage, fragment, columns)
        outcomes.update(table["outcome"].to_pylist())
        codecs.update(codec for codec in table["codec"].to_pylist() if codec)
        source_bytes += pc.sum(table["source_bytes"]).as_py() or 0
        for row in table.to_pylist():
            area = (row["width"] or 0) * (row["height"] or 0)
            pixels += area
            if row["outcome"] == Outcome.FAILED:
                failed_bytes += row["source_bytes"] or 0
            if row.get("same_as"):
                continue
            if row["outcome"] == Outcome.KEPT:
                stream_bytes += row["source_bytes"]
            elif row["bpp"] is not None:
                stream_bytes += round(row["bpp"] * area / 8)
    shards = archive.shards()
    return Totals(
        num_photos=sum(outcomes.values()),
        num_shards=len(shards),
        outcomes=dict(outcomes),
        codecs=dict(codecs),
        source_bytes=source_bytes,
        stored_bytes=source_bytes - failed_bytes,
        stream_bytes=stream_bytes,
        shard_bytes=sum(shard.size_bytes for shard in shards),
        pixels=pixels,
    )
