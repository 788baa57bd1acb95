"""One photo by its key: the log's statistics name the shard, its sorted keys the row group, one ranged read the row.

The statistics of row groups would save reading keys, but no checksum covers them, and pyarrow aborts the process when it is
asked for some that a flipped bit made nonsense of.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

import pyarrow.parquet as pq

from pipeline.archive.commit import Archive
from pipeline.archive.references import resolved
from pipeline.archive.shard_reader import open_shard, read_group
from pipeline.errors import ArchiveDamagedError, KeyNotFoundError
from pipeline.records import STREAM_COLUMNS, EncodedPhoto, encoded_from_table


def find(archive: Archive, key: str, *, with_original: bool = False) -> EncodedPhoto:
    """The row of `key`; one that is the same as another comes with the stream and the metadata of that one.

    Args:
        with_original: read the column `original` too.

    Raises:
        KeyNotFoundError: the archive holds no such key.
        ArchiveDamagedError: its shard is missing or damaged, or its stream is not where it should be.
    """
    version = archive.log.version
    try:
        return _find(archive, key, with_original=with_original)
    except ArchiveDamagedError:
        if not archive.has_moved_on(version):
            raise
        return _find(archive, key, with_original=with_original)  # its shard was replaced, and deleted at once


def resolve(archive: Archive, row: EncodedPhoto, *, with_original: bool = False) -> EncodedPhoto:
    """`row` itself, or with the stream and the metadata of the row that it is the same as.

    Raises:
        ArchiveDamagedError: that one's shard is missing or damaged, or its stream is not where it should be.
    """
    if row.same_as is None:
        return row
    return resolved(row, _row(archive, row.same_as, with_original=with_original))


def _find(archive: Archive, key: str, *, with_original: bool) -> EncodedPhoto:
    row = _row(archive, key, with_original=with_original)
    if row is None:
        raise KeyNotFoundError("the archive holds no such photo; `photoark ls` lists its keys", key=key)
    return resolve(archive, row, with_original=with_original)


def _row(archive: Archive, key: str, *, with_original: bool) -> EncodedPhoto | None:
    for shard in archive.shards():
        if not shard.least_key <= key <= shard.greatest_key:
            continue
        with open_shard(archive.storage, shard.path) as file:

            @cache
            def keys(group: int, file: pq.ParquetFile = file) -> list[str]:
                return read_group(file, group, ["key"])["key"].to_pylist()

            i = bisect_right(range(file.num_row_groups), key, key=lambda group: keys(group)[0]) - 1
            if i >= 0 and key in keys(i):
                columns = None if with_original else list(STREAM_COLUMNS)
                return encoded_from_table(read_group(file, i, columns).slice(keys(i).index(key), 1))[0]
    return None
