"""What is finished is committed in time, beside the loop that takes it in; no error of a commit goes unheard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.schema import SHARD_BYTES
from pipeline.archive.writer import ArchiveWriter
from pipeline.encode.changes import Work
from pipeline.encode.committer import Commit, Committer, Refer
from pipeline.encode.history import History
from pipeline.errors import StorageError
from pipeline.records import EncodedPhoto, Photo
from tests.pipeline.archive.test_archive import row

NUM_PHOTOS = 1004


def all_work() -> Work:
    """Photos `a` to `d`, `0` to `999`."""
    return Work(todo={key: Photo(key=key, uri=f"/{key}", size_bytes=1) for key in [*"abcd", *map(str, range(1000))]})


def committer(commit: Commit, interval_s: float = 60.0, refer: Refer | None = None, work: Work | None = None) -> Committer:
    return Committer(commit, refer, work or all_work(), interval_s, History())


def wait_until(happened: Callable[[], bool], within_s: float = 20.0) -> float:
    """Returns how long that took."""
    start_s = time.monotonic()
    while not happened():
        assert time.monotonic() - start_s < within_s
        time.sleep(0.01)
    return time.monotonic() - start_s


def in_time(url: str) -> None:
    archive, reader, interval_s = ArchiveWriter.open_or_create(url), ArchiveWriter.open(url), 1.0

    def committed() -> frozenset[str]:
        reader.log.refresh()
        return reader.keys()

    with committer(archive.commit, interval_s) as gathering:
        gathering.add([row("a")])
        wait_until(lambda: committed() == {"a"})
        gathering.add([row("b")])
        gathering.add([row("c")])
        # No other row comes, and nobody asks.
        assert wait_until(lambda: committed() == {"a", "b", "c"}) < 3 * interval_s
        gathering.add([row("d")])
    assert committed() == {"a", "b", "c", "d"}
    assert len(reader.shards()) == 3
    assert gathering.summary.num_new == 4


def test_rows_are_committed_in_time_though_no_other_comes(tmp_path: Path) -> None:
    in_time(str(tmp_path / "archive"))


@pytest.mark.s3
def test_rows_are_committed_in_time_on_s3(s3_url: str) -> None:
    in_time(f"{s3_url}/archive")


@pytest.mark.parametrize(("block_s", "least_s", "most_s"), [(0.0, 3.0, 8.0), (2.0, 1.0, 3.0), (60.0, 1.0, 3.0)])
def test_what_blocks_take_of_the_interval_rows_do_not_wait(block_s: float, least_s: float, most_s: float) -> None:
    began_s: list[float] = []
    history = History(longest_block_s=block_s)
    with Committer(lambda rows: began_s.append(time.monotonic()), None, all_work(), 4.0, history) as gathering:
        gathering.add([row("a")])
        wait_until(lambda: len(began_s) == 1)
        gathering.add([row("b")])
        wait_until(lambda: len(began_s) == 2)
    assert least_s <= began_s[1] - began_s[0] < most_s


def test_the_first_rows_do_not_wait_and_others_come_in_while_they_are_committed() -> None:
    commits: list[list[str]] = []
    may_end = threading.Event()

    def commit(rows: list[EncodedPhoto]) -> None:
        commits.append([r.key for r in rows])
        may_end.wait()

    with committer(commit) as gathering:
        gathering.add([row("a")])
        wait_until(lambda: commits == [["a"]])
        gathering.add([row("b"), row("a")])  # a block that ran twice
        gathering.add([row("c")])
        assert gathering.progress(NUM_PHOTOS).num_done == 3
        may_end.set()
        gathering.flush()
        assert commits == [["a"], ["b", "c"]]


def test_no_more_than_two_shards_are_in_memory() -> None:
    may_end = threading.Event()
    sizes: list[int] = []

    def commit(rows: list[EncodedPhoto]) -> None:
        sizes.append(sum(len(r.image or b"") for r in rows))
        may_end.wait()

    half, work = bytes(SHARD_BYTES // 2 + 1), all_work()
    with committer(commit, work=work) as gathering:

        def add() -> None:
            for i in range(8):
                gathering.add([replace(row(str(i)), image=half)])

        loop = threading.Thread(target=add)
        loop.start()
        wait_until(lambda: NUM_PHOTOS - len(work.todo) >= 3)
        loop.join(0.5)
        assert loop.is_alive() and NUM_PHOTOS - len(work.todo) in (3, 4)
        may_end.set()
        # Enough for a shard is committed though the minute of the interval is not over.
        loop.join(20)
        assert not loop.is_alive()
    assert sum(sizes) == 8 * len(half)
    assert max(sizes) <= 2 * len(half)


@pytest.mark.parametrize("interval_s", [0.0, 60.0])
def test_an_error_of_a_commit_reaches_the_caller_as_it_came(interval_s: float) -> None:
    error = StorageError("full")

    def commit(rows: list[EncodedPhoto]) -> None:
        raise error

    work = all_work()
    gathering = committer(commit, interval_s, work=work)

    def loop() -> None:
        with gathering:
            for i in range(1000):
                gathering.add([row(str(i))])
                time.sleep(0.01)

    with pytest.raises(StorageError) as caught:
        loop()
    assert caught.value is error
    assert "999" in work.todo
    assert not any(thread.name == "commit" for thread in threading.enumerate())


@pytest.mark.parametrize("end", [KeyboardInterrupt, StorageError])
def test_what_is_finished_stays_whatever_ends_the_loop(end: type[BaseException], tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))

    def loop() -> None:
        with committer(archive.commit) as gathering:
            gathering.add([row("a")])
            gathering.add([row("b")])
            raise end("from outside")

    with pytest.raises(end):
        loop()
    assert ArchiveWriter.open(archive.storage.url).keys() == {"a", "b"}
    assert not any(thread.name == "commit" for thread in threading.enumerate())


def test_references_are_asked_for_until_their_row_is_there_and_can_be_given_up() -> None:
    asked: list[list[str]] = []

    def refer(rows: list[EncodedPhoto]) -> list[EncodedPhoto]:
        asked.append([r.key for r in rows])
        return [r for r in rows if r.same_as not in committed]

    committed: list[str] = []
    work = Work(todo={key: photo for key, photo in all_work().todo.items() if key in "abd"})
    with committer(lambda rows: committed.extend(r.key for r in rows), refer=refer, work=work) as gathering:
        gathering.add([replace(row("b"), same_as="a"), replace(row("d"), same_as="c")])
        gathering.flush()
        gathering.add([row("a")])
        gathering.flush()
        assert asked == [["b", "d"], ["b", "d"]]
        assert (gathering.summary.num_shared, set(work.todo)) == (1, set())
        gathering.release()
        assert set(work.todo) == {"d"}
        gathering.add([row("d")])
    assert committed == ["a", "d"]
    assert (gathering.summary.num_new, gathering.summary.num_shared) == (3, 1)
