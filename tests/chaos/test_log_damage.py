"""A flipped byte of the log: it has no checksum of its own, and still nothing is lost in silence."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import VerifyReport, verify, verify_unopened
from pipeline.archive.reader import read_rows
from pipeline.archive.writer import ArchiveWriter
from pipeline.encode.job import EncodeJob
from pipeline.encode.repair import repair
from pipeline.errors import ArchiveDamagedError, ArchiveError
from pipeline.storage.base import Storage
from tests.pipeline.archive.test_archive import row

pytestmark = pytest.mark.chaos


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveWriter:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit([row("a"), row("b")])
    archive.commit([row("c")])
    archive.put([row("b")])
    return archive


def report_of(url: str) -> VerifyReport:
    """As `photoark verify` does."""
    try:
        opened = ArchiveWriter.open(url)
    except ArchiveError as error:
        return verify_unopened(Storage(url), error)
    return verify(opened)


def content(url: str) -> dict[str, bytes | None]:
    return {found.key: found.image for found in read_rows(ArchiveWriter.open(url))}


def test_any_byte_of_the_log_is_noticed_or_harmless(archive: ArchiveWriter) -> None:
    url = archive.storage.url
    before, num_noticed = content(url), 0
    for path in sorted(Path(url, "_delta_log").glob("*.json")):
        data = path.read_bytes()
        # The first file is thousands of bytes of schema.
        for at in random.sample(range(len(data)), 60):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :])
            report = report_of(url)
            num_noticed += not report.is_clean
            assert not report.is_clean or content(url) == before, (path.name, at)
            assert all(damage.keys or damage.what for damage in report.damages)
        path.write_bytes(data)
    assert num_noticed > 40
    assert report_of(url).is_clean


def test_any_byte_of_a_checkpoint_is_noticed_or_harmless(archive: ArchiveWriter) -> None:
    url = archive.storage.url
    DeltaTable(url).create_checkpoint()
    archive.commit([row("d")])
    before, num_noticed = content(url), 0
    (path,) = Path(url, "_delta_log").glob("*.parquet")
    for earlier in sorted(Path(url, "_delta_log").glob("*.json"))[:-2]:
        earlier.unlink()
    data = path.read_bytes()
    for at in random.sample(range(len(data)), 80):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :])
        report = report_of(url)
        num_noticed += not report.is_clean
        assert not report.is_clean or content(url) == before, at
    assert num_noticed > 15
    path.write_bytes(data)
    assert (report_of(url).is_clean, content(url)) == (True, before)


def test_a_lost_line_is_told_with_its_photos_built_on_by_nobody_and_mended(archive: ArchiveWriter, tmp_path: Path) -> None:
    url = archive.storage.url
    before = content(url)
    (path,) = (p for p in Path(url, "_delta_log").glob("*2.json"))
    text = path.read_text()
    path.write_text(text.replace('{"add"', '{"adc"'))
    report = report_of(url)
    assert [(str(damage.kind), damage.keys) for damage in report.damages] == [("log", ("c",))]
    with pytest.raises(ArchiveDamagedError, match="--repair"):
        vacuum(ArchiveWriter.open(url), retention_hours=0)  # the shard that the log no longer names is not free
    with pytest.raises(ArchiveDamagedError, match="--repair"):
        ArchiveWriter.open(url).commit([row("c")])
    source = tmp_path / "photos"
    source.mkdir()
    summary = repair(EncodeJob(source=str(source), archive=url, codec="webp"), report)
    assert (summary.num_rows_kept, summary.lost) == (1, [])
    assert report_of(url).is_clean
    assert content(url) == before


def test_a_log_that_cannot_be_read_names_its_file_and_every_photo(archive: ArchiveWriter) -> None:
    url = archive.storage.url
    (path,) = (p for p in Path(url, "_delta_log").glob("*2.json"))
    path.write_text(re.sub('"path"', '"path', path.read_text()))
    (damage,) = report_of(url).damages
    assert damage.keys == ("a", "b", "c")
    assert path.name in damage.what
