"""The archive as a server reads it: by many threads at once, with others' commits becoming visible, page by page."""

from __future__ import annotations

import heapq
import logging
import threading
import time

from pipeline.archive.log import Log, ShardInfo
from pipeline.archive.reader import Archive, find
from pipeline.archive.shard_reader import read_columns
from pipeline.errors import ArchiveDamagedError, PhotoarkError
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.base import Storage

log = logging.getLogger(__name__)
REFRESH_S = 5.0
LISTED_COLUMNS = ("key", "codec", "outcome", "reason", "width", "height", "source_uri", "source_bytes")
_MAX_SAMPLES = 4
"""An archive of a stranger's could name any number of models."""
_SAMPLE_COLUMNS = ("key", "codec", "model", "outcome", "width", "height")


class ServedArchive(Archive):
    """An archive that is only read."""

    def __init__(self, storage: Storage, log: Log) -> None:
        super().__init__(storage, log)
        self._lock = threading.Lock()
        self._refreshed_s = time.monotonic()

    def shards(self) -> list[ShardInfo]:
        """Every shard that the log names, or named `REFRESH_S` ago; as before while the log cannot be read."""
        with self._lock:
            if time.monotonic() - self._refreshed_s >= REFRESH_S:
                try:
                    self.log.refresh()
                except PhotoarkError as error:
                    log.warning("photos that came since cannot be seen: %s", error)
                self._refreshed_s = time.monotonic()
            return super().shards()

    def has_moved_on(self, version: int) -> bool:
        """See `Archive.has_moved_on`; one thread at a time."""
        with self._lock:
            return super().has_moved_on(version)

    def page(self, *, prefix: str = "", after: str = "", limit: int) -> list[EncodedPhoto]:
        """The first `limit` rows, by their keys, with `LISTED_COLUMNS`.

        Args:
            prefix: that their keys begin with.
            after: that their keys are greater than.

        Raises:
            ArchiveDamagedError: a shard is missing or damaged.
        """
        version = self.log.version
        try:
            return self._page(prefix, after, limit)
        except ArchiveDamagedError:
            if not self.has_moved_on(version):
                raise
            return self._page(prefix, after, limit)  # a shard was replaced, and deleted at once

    def _page(self, prefix: str, after: str, limit: int) -> list[EncodedPhoto]:
        found: list[EncodedPhoto] = []
        for shard in sorted(self.shards(), key=lambda shard: shard.least_key):
            if shard.greatest_key < prefix or shard.greatest_key <= after:
                continue
            if shard.least_key[: len(prefix)] > prefix or (len(found) == limit and shard.least_key > found[-1].key):
                break  # and so are all that follow
            rows = read_columns(self.storage, shard.path, LISTED_COLUMNS)
            fitting = (row for row in rows if row.key > after and row.key.startswith(prefix))
            found = heapq.nsmallest(limit, [*found, *fitting], key=lambda row: row.key)
        return found

    def samples(self) -> list[EncodedPhoto]:
        """A small row for each codec and model in one shard: what will most likely be needed, to be tried before it is.

        Raises:
            ArchiveDamagedError: it is missing or damaged.
        """
        shards = self.shards()
        rows = read_columns(self.storage, shards[0].path, _SAMPLE_COLUMNS) if shards else []
        least: dict[tuple[str | None, str | None], EncodedPhoto] = {}
        for row in sorted(rows, key=lambda row: -(row.width or 0) * (row.height or 0)):
            if row.outcome is Outcome.ENCODED:
                least[row.codec, row.model] = row
        return [find(self, row.key) for row in list(least.values())[:_MAX_SAMPLES]]
