"""One photo by its key: the log's statistics name the shard, the footer the row group, one ranged read the row."""

from __future__ import annotations

from pipeline.archive.commit import Archive
from pipeline.archive.shard_reader import key_range, open_shard
from pipeline.errors import KeyNotFoundError
from pipeline.records import STREAM_COLUMNS, EncodedPhoto, encoded_from_table


def find(archive: Archive, key: str, *, with_original: bool = False) -> EncodedPhoto:
    """The row of `key`.

    Args:
        with_original: read the column `original` too.

    Raises:
        KeyNotFoundError: the archive holds no such key.
        ArchiveDamagedError: its shard is missing or damaged.
    """
    for shard in archive.shards():
        if not shard.least_key <= key <= shard.greatest_key:
            continue
        with open_shard(archive.storage, shard.path) as file:
            for i in range(file.num_row_groups):
                least, greatest = key_range(file.metadata.row_group(i))
                if not least <= key <= greatest:
                    continue
                keys = file.read_row_group(i, columns=["key"])["key"].to_pylist()
                if key in keys:
                    columns = None if with_original else list(STREAM_COLUMNS)
                    return encoded_from_table(file.read_row_group(i, columns=columns).slice(keys.index(key), 1))[0]
    raise KeyNotFoundError("the archive holds no such photo; `photoark ls` lists its keys", key=key)
