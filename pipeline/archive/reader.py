"""Reading an archive: its shards and rows, one row by its key, and rows that share another's stream.

The log's statistics name the shard of a key, the sorted keys of its row groups name the row group, and one ranged read fetches
the row. The statistics of row groups would save reading keys, but no checksum covers them, and pyarrow aborts the process on
some that a flipped bit damaged.

Nothing here can write: `writer.ArchiveWriter` can.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.log import Log, ShardInfo
from pipeline.archive.references import resolved
from pipeline.archive.shard_reader import as_ours, open_shard, read_columns, read_group
from pipeline.archive.versions import SOURCE_COLUMNS
from pipeline.errors import ArchiveDamagedError, KeyNotFoundError, SettingError
from pipeline.patterns import EVERY_KEY, KeyPatterns
from pipeline.records import STREAM_COLUMNS, EncodedPhoto, encoded_from_table
from pipeline.storage.base import Storage


class Archive:
    """An archive at a URL, opened to read. Opening reads the log only."""

    def __init__(self, storage: Storage, log: Log) -> None:
        self.storage = storage
        self.log = log
        self._keys_in: dict[str, frozenset[str]] = {}
        self._references_in: dict[str, dict[str, str]] = {}
        """Path of a shard -> which of its rows, by key, are the same as which other."""

    @classmethod
    def open(cls, url: str) -> Archive:
        """Open an archive.

        Raises:
            ArchiveNotFoundError: there is none.
            ArchiveError: it cannot be opened.
        """
        storage = Storage(url)
        return cls(storage, Log(storage))

    def shards(self) -> list[ShardInfo]:
        """Every shard that the log names."""
        return self.log.shards()

    def keys(self, *, ignore: Collection[str] = ()) -> frozenset[str]:
        """Keys of every row but those of the shards `ignore`; only shards not seen by this object before are read.

        Raises:
            ArchiveDamagedError: a shard is missing or damaged.
        """
        shards = [shard for shard in self.shards() if shard.path not in ignore]
        return frozenset().union(*(self._keys_of(shard) for shard in shards))

    def sources(self) -> Iterator[EncodedPhoto]:
        """What every row tells of its source (`SOURCE_COLUMNS`), one shard in memory at a time.

        Raises:
            ArchiveDamagedError: a shard is missing or damaged.
        """
        for shard in self.shards():
            rows = read_columns(self.storage, shard.path, SOURCE_COLUMNS)
            self._take(shard, rows)
            yield from rows

    def has_moved_on(self, version: int) -> bool:
        """Read the log again; whether it is another than `version`, by others' commits."""
        self.log.refresh()
        return self.log.version != version

    def _keys_of(self, shard: ShardInfo) -> frozenset[str]:
        if shard.path not in self._keys_in:
            rows = read_columns(self.storage, shard.path, ("key", "outcome", "same_as"))
            self._keys_in[shard.path] = self._take(shard, rows)
        return self._keys_in[shard.path]

    def _references_of(self, shard: ShardInfo) -> dict[str, str]:
        if shard.path not in self._references_in:
            self._take(shard, read_columns(self.storage, shard.path, ("key", "outcome", "same_as")))
        return self._references_in[shard.path]

    def _take(self, shard: ShardInfo, rows: Sequence[EncodedPhoto]) -> frozenset[str]:
        """Take notice of which rows of a shard refer to others; returns the keys of all."""
        keys = frozenset(row.key for row in rows)
        in_log = (shard.num_rows, shard.least_key, shard.greatest_key)
        if shard.num_rows >= 0 and in_log != (len(keys), min(keys, default=""), max(keys, default="")):
            raise ArchiveDamagedError(f"shard {shard.path} does not hold the keys that the log says; run photoark verify")
        self._references_in[shard.path] = {row.key: row.same_as for row in rows if row.same_as is not None}
        return keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One row group of one shard: what a decode task reads at once."""

    path: str
    row_group: int
    num_rows: int


def list_fragments(archive: Archive, patterns: KeyPatterns = EVERY_KEY) -> dict[Fragment, int]:
    """Return the row groups that hold a key that `patterns` take, in order of their keys, with the number of such keys.

    Raises:
        ArchiveDamagedError: a shard is missing, or its footer or, where there are patterns, a page of keys is damaged.
    """
    fragments = {}
    for shard in sorted(archive.shards(), key=lambda s: s.least_key):
        if not patterns.may_take_between(shard.least_key, shard.greatest_key):
            continue
        with open_shard(archive.storage, shard.path) as file:
            for i in range(file.num_row_groups):
                num_rows = num_taken = file.metadata.row_group(i).num_rows
                if not patterns.takes_all:
                    # Not the statistics: no checksum covers them, and pyarrow aborts the process over some that are damaged.
                    num_taken = sum(map(patterns.takes, read_group(file, i, ["key"])["key"].to_pylist()))
                if num_taken or patterns.takes_all:
                    fragments[Fragment(path=shard.path, row_group=i, num_rows=num_rows)] = num_taken
    return fragments


def no_key(archive: str, patterns: KeyPatterns) -> SettingError:
    """Return the error that says that `patterns` take no key of an archive."""
    return SettingError(f"no key of {archive} matches {patterns}: `photoark ls` lists its keys")


def count_rows(archive: Archive) -> int:
    """Return the number of rows of an archive; shards are opened only where the log does not say.

    Raises:
        ArchiveDamagedError: such a shard is missing or its footer is damaged.
    """
    num_rows = 0
    for shard in archive.shards():
        if shard.num_rows < 0:
            with open_shard(archive.storage, shard.path) as file:
                num_rows += file.metadata.num_rows
        else:
            num_rows += shard.num_rows
    return num_rows


def read_fragment(storage: Storage, fragment: Fragment, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one row group; columns that it lacks, as of an earlier version, hold nulls.

    Raises:
        ArchiveDamagedError: a page fails its checksum, or what is read are no rows of an archive.
    """
    with open_shard(storage, fragment.path) as file:
        return as_ours(read_group(file, fragment.row_group, columns), columns)


def read_rows(
    archive: Archive, patterns: KeyPatterns = EVERY_KEY, columns: Sequence[str] | None = None
) -> Iterator[EncodedPhoto]:
    """Yield the rows whose keys `patterns` take, sorted within a shard; columns left out come back as None."""
    wanted = None if columns is None else list(dict.fromkeys(("key", "outcome", *columns)))
    for fragment in list_fragments(archive, patterns):
        for row in encoded_from_table(read_fragment(archive.storage, fragment, wanted)):
            if patterns.takes(row.key):
                yield row


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
