"""An archive in figures; reads the narrow columns only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.archive.reader import Archive, list_fragments, read_fragment
from pipeline.records import EncodedPhoto, Outcome, encoded_from_table

SIZE_COLUMNS = ("outcome", "source_bytes", "width", "height", "bpp", "same_as", "codec", "format", "recipe")
"""What `stream_size` and `original_size` need to know of a row."""


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
    original_bytes: int
    """Of the source files that are stored beside their bitstreams."""
    shard_bytes: int
    """Of the Parquet files."""
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def stream_size(row: EncodedPhoto) -> int:
    """Bytes of the bitstream or kept file that `row` itself holds, told by its `SIZE_COLUMNS`; no bitstream is read for it."""
    if row.same_as is not None or row.outcome is Outcome.FAILED:
        return 0
    if row.outcome is Outcome.KEPT:
        return row.source_bytes
    return round((row.bpp or 0.0) * (row.width or 0) * (row.height or 0) / 8)


def original_size(row: EncodedPhoto) -> int:
    """Bytes of the source file that `row` holds beside its bitstream, told by its `SIZE_COLUMNS`; no file is read for it.

    0 where an earlier version, which did not record recipes, stored one.
    """
    if row.same_as is not None or row.outcome is not Outcome.ENCODED or row.recipe is None:
        return 0
    ladder, *options = row.recipe.split(" ")
    gives_file_back = row.codec == "jxl" and row.format in ("JPEG", "MPO") and "jxl:100" in ladder.split(",")
    return row.source_bytes if "keep=always" in options and not gives_file_back else 0


def summarise(archive: Archive) -> Totals:
    """Totals of an archive.

    Raises:
        ArchiveDamagedError: a shard is missing or damaged.
    """
    outcomes: Counter[str] = Counter()
    codecs: Counter[str] = Counter()
    source_bytes = failed_bytes = stream_bytes = original_bytes = pixels = 0
    columns = ["key", *SIZE_COLUMNS]
    for fragment in list_fragments(archive):
        table = read_fragment(archive.storage, fragment, columns)
        outcomes.update(table["outcome"].to_pylist())
        codecs.update(codec for codec in table["codec"].to_pylist() if codec)
        source_bytes += pc.sum(table["source_bytes"]).as_py() or 0
        for row in encoded_from_table(table):
            pixels += (row.width or 0) * (row.height or 0)
            stream_bytes += stream_size(row)
            original_bytes += original_size(row)
            if row.outcome is Outcome.FAILED:
                failed_bytes += row.source_bytes or 0
    shards = archive.shards()
    return Totals(
        num_photos=sum(outcomes.values()),
        num_shards=len(shards),
        outcomes=dict(outcomes),
        codecs=dict(codecs),
        source_bytes=source_bytes,
        stored_bytes=source_bytes - failed_bytes,
        stream_bytes=stream_bytes,
        original_bytes=original_bytes,
        shard_bytes=sum(shard.size_bytes for shard in shards),
        pixels=pixels,
    )
