"""Gathers finished rows and commits them in time, beside the loop that takes them in.

    loop:    add ─► gathered rows ─┐
    thread:                        └─► commit, once a row is there and the last commit began a pause ago

    |◄ block in a codec ►|◄ pause, at most ►|◄ commit ►|
    |◄──────────────────── interval ──────────────────►|

The pause is what the slowest block and the last commit leave of the interval: what an actor begins is committed when that is
over, whether or not other rows follow, and a job that dies leaves no more than that to be done again. Rows come in while others
are committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from pipeline.archive.schema import SHARD_BYTES
from pipeline.archive.shard_writer import row_bytes
from pipeline.archive.versions import reason_of, version_of
from pipeline.encode.changes import Work
from pipeline.encode.history import History
from pipeline.job_summary import JobSummary
from pipeline.on_ray.telemetry import record_commit
from pipeline.on_ray.work import BlockWork
from pipeline.progress import Clock, Progress
from pipeline.records import EncodedPhoto, Outcome, Photo

Commit = Callable[[list[EncodedPhoto]], object]
Refer = Callable[[list[EncodedPhoto]], list[EncodedPhoto]]
_ON_THE_WAY = 0.1
"""Of an interval: what rows take from an actor to us."""
_MAX_EXAMPLES = 12
_LEAST_PAUSE = 0.25
"""Of an interval: blocks and commits that take longer than there is time for do not make us commit all the time."""


class Committer:
    """A context manager; its thread, which alone calls `commit` and `refer`, lives as long as the `with` block."""

    def __init__(self, commit: Commit, refer: Refer | None, work: Work, interval_s: float, history: History) -> None:
        """See `pipeline.encode.run.process`.

        Args:
            work: photos are taken out of its `todo` as their rows come, committed or not.
            interval_s: from the beginning of an actor's work on a block to the end of the commit of its rows; longer where
                block and commit take more than three quarters of it.
        """
        self.summary = JobSummary(not_stored=work.not_stored)
        self._commit, self._refer, self._work = commit, refer, work
        self._interval_s, self._history, self._clock = interval_s, history, Clock()
        self._rows: list[EncodedPhoto] = []
        self._references: list[EncodedPhoto] = []
        """Rows that are the same as another, not yet handed to `refer`."""
        self._referring: dict[str, Photo] = {}
        """The photos of all rows that `refer` has not made rows of."""
        self._waiting: list[EncodedPhoto] = []
        """Those that `refer` gave back: the row that they refer to has not come. The thread's own while it is busy."""
        self._bytes_taken = self._num_failed = 0
        """Of the rows that were taken in, committed or not."""
        self._example_every = 1
        self._gathered_bytes = 0
        self._is_busy = self._is_wanted_now = self._is_closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        """Guards all of the above but what is the thread's own, and tells of every change."""
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)

    def __enter__(self) -> Committer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Commit what is gathered, whatever ended the block: finished work stays.

        Raises:
            BaseException: what ended the thread, as it came.
        """
        try:
            self.flush()
        finally:
            with self._changed:
                self._is_closed = True
                self._changed.notify_all()
            self._thread.join()

    def add(self, rows: list[EncodedPhoto], done: Iterable[BlockWork] = ()) -> None:
        """Take rows in, and the work that they were; waits while a shard's worth is gathered.

        Raises:
            BaseException: what ended the thread, as it came.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._gathered_bytes < SHARD_BYTES or self._error)
            self._raise_error()
            for work in done:
                self._history.add(work)
            for row in rows:
                photo = self._work.todo.pop(row.key, None)
                if photo is None:
                    continue  # a block that ran twice: the first result counts
                if row.same_as is not None and row.same_as != row.key:
                    self._references.append(row)
                    self._referring[row.key] = photo
                elif row.same_as is not None and version_of(row) == self._work.seen[row.key]:
                    self.summary.num_skipped += 1
                else:
                    self._rows.append(row)
                    self._gathered_bytes += row_bytes(row)
                self._bytes_taken += row.source_bytes
                self._num_failed += row.outcome is Outcome.FAILED
            self._changed.notify_all()

    def flush(self) -> None:
        """Commit what is gathered now, and return when that is done.

        Raises:
            BaseException: what ended the thread, as it came.
        """
        with self._changed:
            self._is_wanted_now = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._rows or self._references or self._is_busy) or self._error)
            self._is_wanted_now = False
            self._raise_error()

    def release(self) -> None:
        """After `flush`: give up on references to rows that did not come: their photos are still to be done."""
        with self._changed:
            self._work.todo.update(self._referring)
            self._referring, self._waiting = {}, []

    def progress(self, num_total: int) -> Progress:
        """How far the job is, of `num_total` photos."""
        with self._changed:
            return Progress(
                num_done=num_total - len(self._work.todo),
                num_total=num_total,
                num_failed=self._num_failed,
                bytes_done=self._bytes_taken,
                elapsed_s=self._clock.elapsed_s,
            )

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            next_s = -float("inf")
            while self._wait(next_s):
                begun_s = time.monotonic()
                self._commit_gathered()
                next_s = begun_s + self._pause_s(time.monotonic() - begun_s)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _pause_s(self, commit_s: float) -> float:
        """From the beginning of a commit that took `commit_s` to that of the next."""
        left_s = (1 - _ON_THE_WAY) * self._interval_s - self._history.longest_block_s - commit_s
        return max(_LEAST_PAUSE * self._interval_s, left_s)

    def _wait(self, until_s: float) -> bool:
        """Wait for rows, and then until `until_s` (monotonic) or until they are wanted; False once the block has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._references or self._is_closed)
            left_s = until_s - time.monotonic()
            if left_s > 0:
                self._changed.wait_for(self._is_pressing, left_s)
            return not self._is_closed

    def _is_pressing(self) -> bool:
        return self._is_wanted_now or self._is_closed or self._gathered_bytes >= SHARD_BYTES

    def _commit_gathered(self) -> None:
        with self._changed:
            rows, references = self._rows, self._references
            self._rows, self._references, self._gathered_bytes, self._is_busy = [], [], 0, True
            self._changed.notify_all()
        if rows:
            started_s = time.perf_counter()
            self._commit(rows)
            took_s = time.perf_counter() - started_s
            with self._changed:
                self._history.commit(len(rows), took_s)
                for row in rows:
                    self._count(row)
            record_commit(len(rows), took_s)
        asked, waiting = [*self._waiting, *references], []
        if asked:
            assert self._refer is not None
            waiting = self._refer(asked)
        still = {row.key for row in waiting}
        with self._changed:
            for row in asked:
                if row.key not in still:
                    self._count(row)
                    del self._referring[row.key]
            self._waiting, self._is_busy = waiting, False
            self._changed.notify_all()

    def _count(self, row: EncodedPhoto) -> None:
        summary = self.summary
        summary.bytes_in += row.source_bytes
        others = self._work.stored_meanwhile.get(row.key)
        if others is not None and others.outcome is not Outcome.FAILED:
            summary.num_stored_meanwhile += 1
            summary.not_stored.pop(row.key, None)
            if row.key in self._work.recoding:
                summary.num_other_recipe -= 1
            return
        if row.same_as == row.key:
            summary.num_updated += 1
            return
        if row.key in self._work.recoding:
            self._count_recoded(row)
        elif row.key in self._work.seen:
            summary.num_changed += 1
        else:
            summary.num_new += 1
        if row.outcome is Outcome.FAILED:
            self._count_failure(row)
            return
        summary.not_stored.pop(row.key, None)
        summary.bytes_stored += row.source_bytes
        if row.same_as is not None:
            summary.num_shared += 1
            return
        summary.bytes_out += len(row.image or b"") + len(row.original or b"")
        summary.num_pixels += (row.width or 0) * (row.height or 0)
        if row.outcome is Outcome.ENCODED:
            summary.num_encoded += 1
            codec = row.codec or "unknown"
            summary.codecs[codec] = summary.codecs.get(codec, 0) + 1
            self._keep_example(row.key)
        else:
            summary.num_kept += 1

    def _keep_example(self, key: str) -> None:
        """Keep every key, then every second, every fourth, ... so that few are kept, spread over the job."""
        if (self.summary.num_encoded - 1) % self._example_every == 0:
            self.summary.examples.append(key)
        if len(self.summary.examples) > _MAX_EXAMPLES:
            self.summary.examples = self.summary.examples[::2]
            self._example_every *= 2

    def _count_failure(self, row: EncodedPhoto) -> None:
        summary, reason = self.summary, reason_of(row)
        summary.fail(row.key, reason)
        if row.key in self._work.seen and row.key not in summary.not_stored:
            summary.num_outdated += 1  # a failure does not take the place of a photo
        else:
            summary.not_stored[row.key] = reason

    def _count_recoded(self, row: EncodedPhoto) -> None:
        num_sharing = self._work.recoding[row.key]
        if row.outcome is Outcome.FAILED:
            self.summary.num_recoded += 1
            self.summary.num_skipped += num_sharing
        else:
            self.summary.num_recoded += 1 + num_sharing
            self.summary.num_other_recipe -= 1 + num_sharing
