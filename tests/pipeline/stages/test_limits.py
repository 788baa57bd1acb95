"""Jobs that are told to stop leave what is finished, and the same job run again does the rest, and that alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.bench.simulated_codec import NAME, SimulatedCodecs
from jobs.bench.store import photo
from pipeline.archive.care.verify import verify
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import CodecAt
from pipeline.decode.job import DecodeJob
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.repair import repair
from pipeline.encode.run import encode
from pipeline.errors import SettingError
from pipeline.interrupt import Terminated, raise_terminated
from pipeline.job_summary import JobSummary
from pipeline.on_ray.isolation import each_alone
from pipeline.on_ray.limits import until
from pipeline.on_ray.pool import prepare
from pipeline.patterns import KeyPatterns
from pipeline.records import EncodedPhoto, Outcome
from pipeline.storage.base import Storage
from tests.pipeline.stages.test_retry_repair import KEYS, filled, shard_of

AN_HOUR_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


def kept(key: str, data: bytes, at: datetime = AN_HOUR_AGO) -> EncodedPhoto:
    """A row that holds a file as it is."""
    return EncodedPhoto(
        key=key, image=data, codec="original", model=None, outcome=Outcome.KEPT, format="JPEG", source_uri=f"/{key}",
        source_bytes=len(data), modified_at=at, encoded_at=at,
    )  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveWriter:
    """Thirty photos in three shards."""
    opened = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    for i in range(3):
        opened.commit([kept(f"{i}/{j}.jpg", bytes([i, j]) * 300) for j in range(10)])
    return opened


@pytest.mark.usefixtures("ray_session")
def test_encode_stops_with_what_is_finished_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(40):
        (tmp_path / "photos" / f"{i}.txt").write_bytes(bytes([i]) * 300)
    job = EncodeJob(source=str(tmp_path / "photos"), archive=str(tmp_path / "archive"), codec="original", block_photos=2)
    seen: list[int] = []
    first = encode(job, lambda progress: seen.append(progress.num_done), should_stop=lambda: bool(seen))
    assert first.stopped
    committed = ArchiveWriter.open(job.archive).keys()
    assert 0 < len(committed) == first.num_new < 40
    second = encode(job)
    assert (second.stopped, second.num_skipped, second.num_new) == (False, len(committed), 40 - len(committed))


@pytest.mark.usefixtures("ray_session")
def test_decode_stops_and_goes_on_with_what_is_missing(archive: ArchiveWriter, tmp_path: Path) -> None:
    job = DecodeJob(archive=archive.storage.url, destination=str(tmp_path / "files"), batch_photos=2, resume=True)
    seen: list[int] = []
    first = decode(job, lambda progress: seen.append(progress.num_done), should_stop=lambda: bool(seen))
    assert first.stopped
    assert 0 < first.num_restored < 30
    # What was on its way when it stopped may have been written too, even after it has returned.
    written = sorted((tmp_path / "files").rglob("*.jpg"))
    assert first.num_restored <= len(written)
    written.pop().unlink()
    files = {path: path.stat().st_ino for path in written}

    second = decode(job)
    assert (second.stopped, second.num_photos, second.num_skipped + second.num_restored) == (False, 30, 30)
    assert len(files) <= second.num_skipped < 30
    assert {path: path.stat().st_ino for path in files} == files, "written again"
    for i in range(3):
        for j in range(10):
            assert (tmp_path / "files" / f"{i}" / f"{j}.jpg").read_bytes() == bytes([i, j]) * 300

    # A file that somebody changed is not the one that was written, nor is one of an earlier version of the photo.
    (tmp_path / "files" / "1" / "3.jpg").write_bytes(b"spoilt")
    archive.put([kept("2/4.jpg", b"new", AN_HOUR_AGO + timedelta(minutes=1))])
    with pytest.raises(SettingError, match=r"2 of the files, 1/3\.jpg the first"):
        decode(job)
    third = decode(replace(job, overwrite=True))
    assert (third.num_restored, third.num_skipped) == (2, 28)
    assert (tmp_path / "files" / "1" / "3.jpg").read_bytes() == bytes([1, 3]) * 300
    assert (tmp_path / "files" / "2" / "4.jpg").read_bytes() == b"new"
    # Asked for all, it writes all.
    assert decode(replace(job, resume=False, overwrite=True, patterns=KeyPatterns(include=("0/*",)))).num_restored == 10


@pytest.mark.s3
@pytest.mark.usefixtures("ray_session")
def test_on_a_store_what_is_younger_than_its_row_is_there(archive: ArchiveWriter, s3_url: str) -> None:
    job = DecodeJob(
        archive=archive.storage.url, destination=f"{s3_url}/files", patterns=KeyPatterns(include=("0/*",)), resume=True
    )

    assert decode(job).num_restored == 10
    archive.put([kept("0/5.jpg", b"new", datetime.now(UTC) + timedelta(minutes=1))])
    with pytest.raises(SettingError, match=r"0/5\.jpg is in"):
        decode(job)
    again = decode(replace(job, overwrite=True))
    assert (again.num_restored, again.num_skipped) == (1, 9)
    assert Storage(f"{s3_url}/files").read("0/5.jpg") == b"new"


@pytest.mark.usefixtures("ray_session")
def test_a_repair_stops_and_goes_on_with_what_is_damaged(tmp_path: Path) -> None:
    job = filled(Storage(tmp_path / "photos"), str(tmp_path / "archive"))
    for key in KEYS[::2]:
        (tmp_path / "archive" / shard_of(job, key).path).unlink()
    seen: list[int] = []
    report = verify(ArchiveWriter.open(job.archive))
    first = repair(job, report, lambda progress: seen.append(progress.num_done), should_stop=lambda: bool(seen))
    assert first.stopped
    assert 0 < first.num_encoded < len(KEYS)
    left = verify(ArchiveWriter.open(job.archive))
    assert len(left.damages) == 4 - first.num_shards
    second = repair(job, left)
    assert (second.stopped, first.num_encoded + second.num_encoded) == (False, len(KEYS))
    assert verify(ArchiveWriter.open(job.archive)).is_clean


@pytest.fixture
def endless(tmp_path: Path) -> EncodeJob:
    """Forty photos, of which none will be done in the time of a test."""
    source, data = tmp_path / "photos", photo(0.01)
    source.mkdir()
    for i in range(40):
        (source / f"{i:02d}.jpg").write_bytes(data)
    return EncodeJob(
        source=str(source), archive=str(tmp_path / "archive"), ladder=(CodecAt(NAME),), block_photos=1,
        codecs=SimulatedCodecs(600 / 0.01),
    )  # fmt: skip


def executors() -> list[str]:
    """Ray Data's, that run: one that is left over can end the process when Ray goes."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("after_s", "in_main_thread"), [(0.0, True), (0.05, False), (5.0, True), (5.0, False)])
def test_a_job_ends_at_its_limit_while_nothing_comes(endless: EncodeJob, after_s: float, in_main_thread: bool) -> None:
    asked_s: list[float] = []

    def should_stop() -> bool:
        asked_s.append(time.monotonic())
        return asked_s[-1] >= asked_s[0] + after_s

    summaries: list[JobSummary] = []

    def run() -> None:
        summaries.append(encode(endless, should_stop=should_stop))

    if in_main_thread:
        run()
    else:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    took_s = time.monotonic() - asked_s[0]
    assert [(summary.stopped, summary.num_new) for summary in summaries] == [(True, 0)]
    assert after_s <= took_s < after_s + 30
    assert executors() == []


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("number", "after_s"), [(signal.SIGINT, 0.05), (signal.SIGTERM, 5.0)])
def test_a_signal_ends_a_job_while_nothing_comes(endless: EncodeJob, number: signal.Signals, after_s: float) -> None:
    asked_s: list[float] = []

    def should_stop() -> bool:
        if not asked_s:
            threading.Timer(after_s, os.kill, (os.getpid(), number)).start()
        asked_s.append(time.monotonic())
        return False

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Terminated):
            encode(endless, should_stop=should_stop)
        assert signal.getsignal(signal.SIGTERM) is raise_terminated
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - asked_s[0] < after_s + 30
    assert executors() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Hanging:
    """A worker that never answers."""

    def __init__(self, _: object) -> None:
        pass

    def __call__(self, _: pa.Table) -> pa.Table:
        time.sleep(600)
        raise AssertionError


@pytest.mark.usefixtures("ray_session")
def test_photos_that_are_done_alone_stop_at_a_limit_too() -> None:
    plan = prepare("cpu")
    end_s = time.monotonic() + 5
    alone = each_alone(Hanging, None, plan, {"a": lambda: pa.table({})})
    with closing(alone):
        assert list(until(lambda: time.monotonic() > end_s, alone)) == []
    assert 0 <= time.monotonic() - end_s < 10


def test_a_stream_is_all_there_when_nobody_stops_it_and_its_errors_are_its_own() -> None:
    def stream() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    whole = until(lambda: False, stream())
    assert [next(whole), next(whole)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(whole)
    in_a_thread: list[int] = []
    thread = threading.Thread(target=lambda: in_a_thread.extend(until(lambda: False, iter([1, 2]))))
    thread.start()
    thread.join()
    assert in_a_thread == [1, 2]
