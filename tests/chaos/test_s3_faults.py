"""A store and a network that misbehave: nothing is lost, nothing is there twice, nothing is taken for what it is not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from jobs.bench.fault_proxy import FaultPlan, FaultProxy
from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import verify
from pipeline.archive.reader import find
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import PhotoarkError
from pipeline.logs import JsonLines, about
from pipeline.sources.folder import list_photos
from pipeline.storage import s3
from pipeline.storage.base import Storage
from tests.pipeline.archive.test_archive import row

pytestmark = [pytest.mark.s3, pytest.mark.chaos]


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of the S3 server, for every client that starts in this test; without faults at first."""
    monkeypatch.setattr(s3, "TIMEOUT_S", 1.0)
    with FaultProxy(s3_server, FaultPlan(stall_s=2)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


T = TypeVar("T")


def again(act: Callable[[], T]) -> T:
    """The same once more when it ends with an error of ours, as a person would."""
    for _ in range(9):
        with contextlib.suppress(PhotoarkError):
            return act()
    return act()


@pytest.mark.parametrize("fault", ["slow_down", "reset", "stall", "truncate", "flip", "flip_upload", "drop"])
def test_work_goes_on_through_faults(fault: str, proxy: FaultProxy, s3_url: str, photo_files: dict[str, bytes]) -> None:
    source = Storage(f"{s3_url}/photos")
    archive = ArchiveWriter.open_or_create(f"{s3_url}/archive")
    proxy.plan = FaultPlan(rates={fault: {"stall": 0.03, "flip": 0.06, "flip_upload": 0.4}.get(fault, 0.15)}, stall_s=2)

    for name, data in photo_files.items():
        again(lambda name=name, data=data: source.write(name, data[:20_000]))  # type: ignore[misc]
    assert [photo.key for photo in list_photos(source.url)] == sorted(photo_files)
    for name, data in photo_files.items():
        assert source.read(name) == data[:20_000]

    rows = [row(f"{i:02d}", size=3000) for i in range(30)]

    def write(first: int) -> None:
        mine = again(lambda: ArchiveWriter.open(archive.storage.url))
        for i in range(first, first + 20, 5):
            again(lambda i=i: mine.commit(rows[i : i + 5]))  # type: ignore[misc]

    with ThreadPoolExecutor(2) as writers:
        list(writers.map(write, (0, 10)))
    assert again(lambda: find(ArchiveWriter.open(archive.storage.url), "07")) == rows[7]
    proxy.plan.rates = {}
    assert proxy.injected[fault] > 0

    report = verify(ArchiveWriter.open(archive.storage.url))
    assert (report.damages, report.num_rows) == ((), 30)
    vacuum(archive, retention_hours=0)
    report = verify(ArchiveWriter.open(archive.storage.url))
    assert (report.damages, report.num_rows, report.orphans) == ((), 30, ())
    assert {name: hashlib.sha256(source.read(name)).hexdigest() for name in photo_files} == {
        name: hashlib.sha256(data[:20_000]).hexdigest() for name, data in photo_files.items()
    }


@pytest.mark.parametrize(("fault", "advice"), [("expired", "renew them"), ("skewed", "clock"), ("slow_down", "wait a while")])
def test_what_does_not_pass_is_told_in_one_line_with_a_cure(
    fault: str, advice: str, proxy: FaultProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MAX_ATTEMPTS", 2)
    archive = ArchiveWriter.open_or_create(f"{s3_url}/archive")
    archive.commit([row("a")])
    proxy.plan.rates = {fault: 1}
    for act in (lambda: archive.commit([row("b")]), lambda: list(list_photos(f"{s3_url}/photos"))):
        with pytest.raises(PhotoarkError) as caught:
            act()
        assert advice in str(caught.value)
        assert "\n" not in str(caught.value)
    proxy.plan.rates = {}
    assert archive.commit([row("b")]) == 1
    assert verify(archive).is_clean
    assert archive.keys() == {"a", "b"}


@pytest.mark.parametrize(("fault", "reason"), [("slow_down", "503 SlowDown"), ("truncate", "IncompleteRead")])
def test_each_request_that_failed_has_a_log_line(fault: str, reason: str, proxy: FaultProxy, s3_url: str) -> None:
    source = Storage(f"{s3_url}/photos")
    source.write("a.jpg", bytes(50_000))
    text, handler = io.StringIO(), logging.StreamHandler()
    handler.setStream(text)
    handler.setFormatter(JsonLines("job"))
    logger = logging.getLogger("pipeline")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    proxy.plan.rates = {fault: 0.5}
    try:
        with about(key="a.jpg", stage="read"):
            for _ in range(3):
                assert source.read("a.jpg") == bytes(50_000)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert len(lines) == proxy.injected[fault] > 0
    for line in lines:
        assert (line["key"], line["stage"], line["url"].rpartition("/")[2]) == ("a.jpg", "read", "a.jpg")
        assert reason in line["reason"]
        assert line["attempt"] >= 1
