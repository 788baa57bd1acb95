"""Merging and cleaning: no row changes, no version of the log holds a key twice, and nothing foreign is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.archive.care.optimize import optimize
from pipeline.archive.care.vacuum import vacuum, vacuum_replaced
from pipeline.archive.care.verify import verify
from pipeline.archive.log import Log
from pipeline.archive.reader import find, read_rows
from pipeline.archive.shard_writer import render_shard, write_shard
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError, SettingError
from pipeline.records import EncodedPhoto, Outcome
from pipeline.serving.catalogue import ServedArchive
from tests.pipeline.archive.test_archive import folder, row, versions


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveWriter:
    return ArchiveWriter.open_or_create(str(tmp_path / "archive"))


def filled(archive: ArchiveWriter, *, num_shards: int = 5) -> list[EncodedPhoto]:
    """Small shards whose keys lie in each other's ranges, a failed row in each."""
    rows = []
    for i in range(num_shards):
        part = [row(f"{j}/{i}.jpg", size=3000) for j in range(4)] + [row(f"9/{i}", outcome=Outcome.FAILED)]
        archive.commit(part)
        rows += part
    return sorted(rows, key=lambda r: r.key)


def test_merged_shards_hold_every_row_as_it_was(archive: ArchiveWriter) -> None:
    rows = filled(archive)
    before = {shard.path for shard in archive.shards()}
    planned = optimize(archive, dry_run=True)
    assert {shard.path for shard in ArchiveWriter.open(archive.storage.url).shards()} == before
    report = optimize(archive)
    assert report == planned
    assert (report.num_shards_before, report.num_shards_after) == (5, 1)
    assert {path for group in report.merged for path in group} == before

    reopened = ArchiveWriter.open(archive.storage.url)
    (shard,) = reopened.shards()
    assert list(read_rows(reopened)) == rows
    assert [find(reopened, r.key) for r in rows] == rows
    assert shard.path == render_shard(rows)[0].path  # byte for byte what one commit of all would have written
    file = pq.ParquetFile(folder(archive) / shard.path)
    assert file.metadata.row_group(0).column(1).compression == "UNCOMPRESSED"
    assert b"huggingface" in file.schema_arrow.metadata
    assert verify(reopened).is_clean
    keys = [r.key for r in rows]
    assert versions(archive.storage.url)[-2:] == [keys, keys]
    assert optimize(reopened).merged == ()


def test_shards_are_merged_up_to_the_target_and_neighbours_with_neighbours(archive: ArchiveWriter) -> None:
    for i in range(6):
        archive.commit([row(f"{i}.jpg", size=10_000)])
    (size, *_) = (shard.size_bytes for shard in archive.shards())
    report = optimize(archive, target_bytes=int(size * 3.5))
    assert [len(group) for group in report.merged] == [3, 3]
    assert sorted((s.least_key, s.greatest_key) for s in archive.shards()) == [("0.jpg", "2.jpg"), ("3.jpg", "5.jpg")]
    assert optimize(archive, target_bytes=size).merged == ()


def test_damage_is_not_merged_into_a_sound_shard(archive: ArchiveWriter) -> None:
    filled(archive, num_shards=2)
    path = folder(archive) / archive.shards()[0].path
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # in the footer, where no page checksum is
    path.write_bytes(data)
    with pytest.raises(ArchiveDamagedError, match="SHA-256"):
        optimize(archive)
    assert len(ArchiveWriter.open(archive.storage.url).shards()) == 2


def busy(url: str) -> None:
    """Commits, puts and merges at once."""
    expected = {r.key for r in filled(ArchiveWriter.open(url), num_shards=3)}
    fresh = [row(f"5/{i}.jpg") for i in range(6)]
    healed = row("9/1")
    writers = [ArchiveWriter.open(url) for _ in range(4)]
    work = [
        lambda: [writers[0].commit([photo]) for photo in fresh],
        lambda: optimize(writers[1]),
        lambda: writers[2].put([healed]),
        lambda: [optimize(writers[3]) for _ in range(3)],
    ]
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(task) for task in work]:
            try:
                future.result()
            except ArchiveDamagedError as error:
                raise AssertionError("no shard goes before vacuum") from error
    reopened = ArchiveWriter.open(url)
    assert sorted(r.key for r in read_rows(reopened)) == sorted(expected | {r.key for r in fresh})
    assert find(reopened, "9/1") == healed
    assert verify(reopened).is_clean


def test_merging_beside_other_writers_loses_and_repeats_nothing(archive: ArchiveWriter) -> None:
    busy(archive.storage.url)
    assert all(len(keys) == len(set(keys)) for keys in versions(archive.storage.url))


@pytest.mark.s3
def test_merging_beside_other_writers_on_s3_loses_and_repeats_nothing(s3_url: str) -> None:
    busy(ArchiveWriter.open_or_create(f"{s3_url}/archive").storage.url)


def age(path: Path, *, hours: float) -> None:
    os.utime(path, (time.time() - hours * 3600,) * 2)


def test_vacuum_deletes_what_nothing_refers_to_and_nothing_else(archive: ArchiveWriter) -> None:
    rows = filled(archive)
    replaced = {shard.path for shard in archive.shards()}
    optimize(archive)
    orphan = write_shard(archive.storage, [row("never committed")])
    young = write_shard(archive.storage, [row("about to be committed")])
    part = f".{orphan.path}.0123456789ab.part"
    foreign = {"photo.jpg", "deep/photo.jpg", "photos-of-mine.parquet", ".hidden", f"deep/{orphan.path}"}
    for name in (part, *foreign):
        archive.storage.write(name, b"four")
    for name in (part, orphan.path, *foreign):
        age(folder(archive) / name, hours=200)

    before = {file.path for file in archive.storage.list()}
    planned = vacuum(archive, dry_run=True)
    assert set(planned.paths) == {part, orphan.path}
    assert planned.num_bytes == 4 + orphan.size_bytes
    assert {file.path for file in archive.storage.list()} == before
    assert vacuum(archive) == planned
    assert {file.path for file in archive.storage.list()} == before - {part, orphan.path}

    assert set(vacuum(archive, retention_hours=0).paths) == replaced | {young.path}
    left = {file.path for file in archive.storage.list() if not file.path.startswith("_delta_log/")}
    assert left == foreign | {shard.path for shard in archive.shards()}
    reopened = ArchiveWriter.open(archive.storage.url)
    assert list(read_rows(reopened)) == rows
    assert verify(reopened).is_clean
    with pytest.raises(SettingError, match="0 or more"):
        vacuum(archive, retention_hours=-1)


def test_a_shard_that_comes_back_under_its_name_is_not_deleted(archive: ArchiveWriter) -> None:
    rows = filled(archive, num_shards=1)
    (shard,) = archive.shards()
    archive.put([row("0/0.jpg")])
    archive.put(rows[:1])
    assert [s.path for s in archive.shards()] == [shard.path]
    assert shard.path not in vacuum(archive, retention_hours=0).paths
    assert list(read_rows(ArchiveWriter.open(archive.storage.url))) == rows


@pytest.mark.s3
def test_vacuum_on_s3(s3_url: str) -> None:
    archive = ArchiveWriter.open_or_create(s3_url)  # the root of a bucket, where photos may lie too
    rows = filled(archive, num_shards=2)
    replaced = {shard.path for shard in archive.shards()}
    archive.storage.write("photos/a.jpg", b"a photo")
    optimize(archive)
    orphan = write_shard(archive.storage, [row("never committed")])
    assert vacuum(archive).paths == ()
    assert set(vacuum(archive, retention_hours=0, dry_run=True).paths) == replaced | {orphan.path}
    assert set(vacuum(archive, retention_hours=0).paths) == replaced | {orphan.path}
    assert archive.storage.read("photos/a.jpg") == b"a photo"
    assert list(read_rows(ArchiveWriter.open(s3_url))) == rows
    assert [orphan.path for orphan in verify(archive).orphans] == ["photos/a.jpg"]


def shards_in(url: Path) -> set[str]:
    """What a glob finds."""
    return {path.name for path in url.glob("*.parquet")}


def test_vacuum_of_replaced_shards_leaves_those_that_count_and_what_is_not_ours(archive: ArchiveWriter) -> None:
    filled(archive)
    archive.put([row("0/0.jpg")])
    merged = optimize(archive).merged
    old, young = (write_shard(archive.storage, [row(f"never committed {i}")]).path for i in range(2))
    foreign = {"photo.jpg", f"deep/{old}", "photos-of-mine.parquet"}
    for name in foreign:
        archive.storage.write(name, b"four")
    for name in (old, *foreign):
        age(folder(archive) / name, hours=2)
    live = {shard.path for shard in archive.shards()}
    before = {file.path for file in archive.storage.list()}
    planned = vacuum_replaced(archive, merged=merged, dry_run=True)
    assert {file.path for file in archive.storage.list()} == before
    assert vacuum_replaced(archive, merged=merged) == planned
    assert set(planned.paths) == {name for name in before if name.startswith("photos-")} - live - {young} - foreign
    assert planned.left == (young,)
    assert shards_in(folder(archive)) == live | {young, "photos-of-mine.parquet"}
    assert foreign <= {file.path for file in archive.storage.list()}
    age(folder(archive) / young, hours=2)
    assert vacuum_replaced(archive).paths == (young,)
    assert verify(ArchiveWriter.open(archive.storage.url)).is_clean


def test_a_replaced_shard_that_is_about_to_be_committed_again_stays(archive: ArchiveWriter) -> None:
    rows = filled(archive, num_shards=1)
    (shard,) = archive.shards()
    archive.put([row("0/0.jpg")])
    assert write_shard(archive.storage, rows).path == shard.path
    assert vacuum_replaced(archive).left == (shard.path,)
    archive.put(rows[:1])
    assert list(read_rows(ArchiveWriter.open(archive.storage.url))) == rows


def test_who_read_the_log_before_shards_were_deleted_reads_it_again(archive: ArchiveWriter) -> None:
    rows = filled(archive)
    url = archive.storage.url
    reader, writer, other = ArchiveWriter.open(url), ArchiveWriter.open(url), ArchiveWriter.open(url)
    served = ServedArchive(archive.storage, Log(archive.storage))
    assert vacuum_replaced(archive, merged=optimize(archive).merged).paths
    assert find(reader, rows[0].key) == rows[0]
    assert find(served, rows[0].key) == rows[0]
    assert [r.key for r in served.page(limit=3)] == [r.key for r in rows[:3]]
    assert writer.commit([row("new.jpg")]) == 1
    assert optimize(other).num_shards_after == 1
    assert len(list(read_rows(ArchiveWriter.open(url)))) == len(rows) + 1


def test_a_shard_that_is_lost_is_damage_all_the_same(archive: ArchiveWriter) -> None:
    rows = filled(archive, num_shards=1)
    (folder(archive) / archive.shards()[0].path).unlink()
    with pytest.raises(ArchiveDamagedError, match="cannot be read"):
        find(archive, rows[0].key)
    with pytest.raises(ArchiveDamagedError, match="cannot be read"):
        ArchiveWriter.open(archive.storage.url).put([rows[0]])


def test_writers_beside_merges_that_delete_at_once_lose_and_repeat_nothing(archive: ArchiveWriter) -> None:
    expected = {r.key for r in filled(archive, num_shards=3)}
    url, fresh = archive.storage.url, [row(f"5/{i}.jpg") for i in range(12)]

    def merge() -> None:
        opened = ArchiveWriter.open(url)
        for _ in range(8):
            vacuum_replaced(opened, merged=optimize(opened).merged)

    def replace_rows() -> None:
        opened = ArchiveWriter.open(url)
        for i in range(8):
            opened.put([row("9/1", size=600 + i)])

    writers = ArchiveWriter.open(url)
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(task) for task in (merge, replace_rows, lambda: [writers.commit([r]) for r in fresh])]:
            future.result()
    last = ArchiveWriter.open(url)
    report = vacuum_replaced(last, merged=optimize(last).merged)
    assert sorted(r.key for r in read_rows(ArchiveWriter.open(url))) == sorted(expected | {r.key for r in fresh} | {"9/1"})
    assert verify(ArchiveWriter.open(url)).is_clean
    # Tries that another writer outran are of nobody, which only time tells.
    assert shards_in(folder(archive)) == {shard.path for shard in ArchiveWriter.open(url).shards()} | set(report.left)


@pytest.mark.s3
def test_vacuum_of_replaced_shards_on_s3(s3_url: str) -> None:
    archive = ArchiveWriter.open_or_create(f"{s3_url}/archive")
    rows = filled(archive, num_shards=2)
    orphan = write_shard(archive.storage, [row("about to be committed")])
    report = vacuum_replaced(archive, merged=optimize(archive).merged)
    assert (len(report.paths), report.left) == (2, (orphan.path,))
    assert list(read_rows(ArchiveWriter.open(f"{s3_url}/archive"))) == rows


@pytest.mark.chaos
def test_a_merge_that_is_killed_leaves_the_archive_as_it_was_or_merged(tmp_path: Path) -> None:
    code = """
import sys
from pipeline.archive.writer import ArchiveWriter
from pipeline.archive.care.optimize import optimize
archive = ArchiveWriter.open(sys.argv[1])
while True:
    optimize(archive, target_bytes=2 * min(shard.size_bytes for shard in archive.shards()) + 1000)
"""
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    rows = filled(archive, num_shards=24)
    for delay_s in (0.0, 0.002, 0.005, 0.01):
        version = DeltaTable(archive.storage.url).version()
        command = [sys.executable, "-c", code, archive.storage.url]
        with subprocess.Popen(command, cwd=Path(__file__).parents[3]) as merging:
            end_s = time.monotonic() + 60
            while DeltaTable(archive.storage.url).version() == version:
                assert time.monotonic() < end_s, "nothing was merged"
            time.sleep(delay_s)
            merging.kill()
        reopened = ArchiveWriter.open(archive.storage.url)
        assert sorted(read_rows(reopened), key=lambda r: r.key) == rows
        assert verify(reopened).is_clean
    vacuum(reopened, retention_hours=0)
    assert verify(reopened).orphans == ()
