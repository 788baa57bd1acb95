"""The same command later: what is new or changed is encoded, what is the same stays, and bytes that come twice may share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.care.verify import verify
from pipeline.archive.references import reference
from pipeline.archive.summary import summarise
from pipeline.archive.versions import version_of
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.container_check import check_container
from pipeline.codecs.points import CodecAt
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import decode_row, restore
from pipeline.decode.run import decode
from pipeline.encode.changes import find_work
from pipeline.encode.estimate import estimate
from pipeline.encode.job import EncodeJob
from pipeline.encode.read import read_block
from pipeline.encode.run import encode, process
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
from pipeline.on_ray.work import split_work
from pipeline.patterns import KeyPatterns
from pipeline.records import BLOB_COLUMNS, EncodedPhoto, KeepOriginal, Outcome, encoded_from_table, photos_to_table
from pipeline.sources.folder import list_photos
from pipeline.storage.base import Storage
from tests.pipeline.archive.test_archive import versions
from tests.pipeline.stages.test_encode_decode import tree
from tests.pipeline.stages.test_retry_repair import KEYS, archived, filled, flip_image, mended, photo, rows_of

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def job(tmp_path: Path) -> EncodeJob:
    """Eight photos in four shards of two."""
    return filled(Storage(tmp_path / "photos"), str(tmp_path / "archive"))


def is_sound(job: EncodeJob) -> bool:
    return verify(ArchiveWriter.open(job.archive), decode_row, check=check_container).is_clean


def set_time(path: Path, time_s: float) -> None:
    os.utime(path, (time_s, time_s))


def changed_at(data: bytes) -> bytes:
    """Other bytes, as many, of the same photo."""
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def test_what_changed_is_encoded_again_in_the_place_of_its_row(job: EncodeJob) -> None:
    source = Path(job.source)
    before = rows_of(job)
    (source / "0.jpg").write_bytes(photo(20))
    (source / "1.jpg").write_bytes(changed_at(photo(1)))
    set_time(source / "1.jpg", 1_700_000_000.25)
    set_time(source / "2.jpg", 1_700_000_001.5)
    (source / "3.jpg").unlink()
    (source / "4.jpg").write_bytes(b"spoilt")
    (source / "new.jpg").write_bytes(photo(21))
    (source / "late.jpg").write_bytes(b"half a")
    expected = estimate(job)
    assert (expected.num_photos, expected.num_todo, expected.num_changed) == (9, 6, 4)

    summary = encode(job)
    assert (summary.num_photos, summary.num_new, summary.num_changed, summary.num_updated) == (9, 2, 3, 1)
    assert (summary.num_skipped, summary.num_gone, summary.num_encoded, summary.num_failed) == (3, 1, 3, 2)
    assert {key for key, _ in summary.failures} == {"4.jpg", "late.jpg"}
    after = rows_of(job)
    assert after.keys() == {*KEYS, "new.jpg", "late.jpg"}
    # A failure does not take a photo's place: what the archive holds of it may be all that is left.
    assert {key for key in KEYS if after[key] == before[key]} == {"3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg"}
    # The stream of what only got another time is the one that was there.
    assert after["2.jpg"] == replace(before["2.jpg"], modified_at=after["2.jpg"].modified_at)
    for listed in list_photos(job.source):
        if listed.key != "4.jpg":
            row = after[listed.key]
            assert (row.source_bytes, row.modified_at) == (listed.size_bytes, listed.modified_at)
            assert row.source_sha256 == tree(source)[listed.key]
    assert is_sound(job)
    assert all(len(keys) == len(set(keys)) for keys in versions(job.archive))

    # A failure is tried again when its photo changed; a photo that cannot be encoded as it is now, each time.
    (source / "late.jpg").write_bytes(photo(30))
    second = encode(job)
    assert (second.num_new, second.num_changed, second.num_updated, second.num_skipped) == (0, 2, 0, 7)
    assert (second.num_encoded, [key for key, _ in second.failures]) == (1, ["4.jpg"])
    assert rows_of(job)["late.jpg"].outcome is Outcome.ENCODED
    assert rows_of(job)["4.jpg"] == before["4.jpg"]


def test_with_checksums_the_bytes_decide(job: EncodeJob) -> None:
    path = Path(job.source) / "5.jpg"
    before, at = rows_of(job), path.stat().st_mtime_ns
    path.write_bytes(changed_at(photo(5)))
    os.utime(path, ns=(at, at))
    set_time(path.with_name("6.jpg"), 1_700_000_000)
    assert estimate(job).num_changed == 1
    summary = encode(replace(job, checksum=True))
    assert (summary.num_changed, summary.num_updated, summary.num_skipped) == (1, 1, 6)
    after = rows_of(job)
    assert {key for key in KEYS if after[key] != before[key]} == {"5.jpg", "6.jpg"}
    assert after["5.jpg"].source_sha256 == tree(path.parent)["5.jpg"] != before["5.jpg"].source_sha256
    assert after["6.jpg"].image == before["6.jpg"].image


def test_a_row_tells_of_the_bytes_that_were_read(job: EncodeJob) -> None:
    """Where a source changes between its listing and its reading."""
    source = Path(job.source)
    for key in ("8.jpg", "9.jpg"):
        (source / key).write_bytes(photo(80))
    listed = list_photos(job.source)
    (source / "8.jpg").write_bytes(photo(81) + b"and more")
    set_time(source / "8.jpg", 1_800_000_000.5)
    worker = EncodeWorker(EncodeSettings(ladder=(CodecAt("webp"),)))
    rows, _ = split_work(worker(read_block(photos_to_table(listed[-2:]))))
    assert ArchiveWriter.open(job.archive).commit(encoded_from_table(rows)) == 2
    assert rows_of(job)["8.jpg"].source_sha256 == tree(source)["8.jpg"]
    assert find_work(list_photos(job.source), ArchiveWriter.open(job.archive)).num_unchanged == 10
    assert set(find_work(listed, ArchiveWriter.open(job.archive)).seen) == {"8.jpg"}


def test_a_job_that_read_an_earlier_version_does_not_win(job: EncodeJob, tmp_path: Path) -> None:
    """Between the reading of a new photo and its commit, another job commits a newer version of it."""
    source = Path(job.source)
    for key in ("new.jpg", "same.jpg"):
        (source / key).write_bytes(photo(40))
        set_time(source / key, 1_700_000_000)
    other = archived_rows(job.source, tmp_path / "other")  # of another job, which reads the same version
    newer: list[EncodedPhoto] = []

    archive = ArchiveWriter.open(job.archive)
    work = find_work(list_photos(job.source), archive)

    def commit(rows: list[EncodedPhoto]) -> None:
        if not newer:
            (source / "new.jpg").write_bytes(photo(41))
            newer.append(archived_rows(job.source, tmp_path / "newer")["new.jpg"])
            assert ArchiveWriter.open(job.archive).commit([newer[0], other["same.jpg"]]) == 2
        archive.commit(rows, seen=work.seen)

    summary = process(replace(job, block_photos=16), work, commit)
    assert summary.num_new == 2
    assert rows_of(job)["new.jpg"] == newer[0]
    assert rows_of(job)["same.jpg"] == other["same.jpg"]
    assert is_sound(job)


def archived_rows(source: str, archive: Path) -> dict[str, EncodedPhoto]:
    return rows_of(archived(source, str(archive), shard_photos=100))


def test_of_two_that_change_a_row_the_newer_version_stays(job: EncodeJob) -> None:
    archive, first = ArchiveWriter.open(job.archive), rows_of(job)["0.jpg"]
    assert first.modified_at is not None
    seen = {"0.jpg": version_of(first)}
    older, newer = (
        replace(first, source_sha256=sha256, modified_at=first.modified_at.replace(year=year))
        for sha256, year in (("1" * 64, 2001), ("2" * 64, 2099))
    )
    # What a job found when it began may go back in time, as a source can: a photo that came back from a copy.
    assert archive.commit([older], seen=seen) == 1
    assert archive.commit([newer], seen=seen) == 1
    assert ArchiveWriter.open(job.archive).commit([replace(older, modified_at=first.modified_at)], seen=seen) == 0
    assert archive.commit([replace(newer, image=b"another stream of the same bytes")], seen=seen) == 0
    assert rows_of(job)["0.jpg"] == newer


DOUBLES = ("a.jpg", "b.jpg", "dir/c.jpg")


@pytest.fixture
def doubled(tmp_path: Path) -> EncodeJob:
    """One photo under three keys, another, and a broken file twice."""
    source = Storage(tmp_path / "photos")
    for key in DOUBLES:
        source.write(key, photo(50))
    source.write("other.jpg", photo(51))
    source.write("bad.jpg", b"broken")
    source.write("bad2.jpg", b"broken")
    archive = str(tmp_path / "archive")
    return EncodeJob(source=source.url, archive=archive, codec="webp", block_photos=1, commit_interval_s=1e-9, dedupe=True)


def holder_of(job: EncodeJob, keys: Iterable[str] = DOUBLES) -> str:
    """Of photos of the same bytes, the one with the stream; the others refer to it and hold nothing else."""
    rows = {key: row for key, row in rows_of(job).items() if key in keys}
    (holder,) = (key for key, row in rows.items() if row.image is not None)
    for key in rows.keys() - {holder}:
        assert rows[key].same_as == holder
        assert all(getattr(rows[key], name) is None for name in BLOB_COLUMNS)
        assert (rows[key].outcome, rows[key].codec, rows[key].width) == (Outcome.ENCODED, "webp", 40)
    return holder


def test_the_same_bytes_share_a_stream_which_passes_on(doubled: EncodeJob, tmp_path: Path) -> None:
    summary = encode(doubled)
    assert (summary.num_new, summary.num_encoded, summary.num_shared, summary.num_failed) == (6, 2, 2, 2)
    first = holder_of(doubled)
    assert is_sound(doubled)
    files = {key: restore(doubled.archive, key).data for key in DOUBLES}
    assert len(set(files.values())) == 1
    for key in DOUBLES:
        assert restore(doubled.archive, key).modified_at == rows_of(doubled)[key].modified_at
    restored = decode(DecodeJob(archive=doubled.archive, destination=str(tmp_path / "restored")))
    assert (restored.num_restored, restored.num_failed) == (4, 2)
    assert {key: (tmp_path / "restored" / key).read_bytes() for key in DOUBLES} == files
    totals, streams = (
        summarise(ArchiveWriter.open(doubled.archive)),
        [row.image for row in rows_of(doubled).values() if row.image],
    )
    assert (totals.num_photos, len(streams), totals.stream_bytes) == (6, 2, sum(map(len, streams)))

    # The holder changes: another inherits the stream.
    source = Storage(doubled.source)
    source.write(first, photo(60))
    assert (summary := encode(doubled)).num_changed == summary.num_encoded == 1
    left = set(DOUBLES) - {first}
    assert {restore(doubled.archive, key).data for key in left} == {files[first]} != {restore(doubled.archive, first).data}
    # What came back to the bytes of before, and a later photo, find it there.
    source.write(first, photo(50))
    source.write("late.jpg", photo(50))
    summary = encode(doubled)
    assert (summary.num_changed, summary.num_new, summary.num_shared) == (1, 1, 2)
    assert holder_of(doubled, (*DOUBLES, "late.jpg")) == min(left)
    assert is_sound(doubled)


def shared(job: EncodeJob) -> str:
    """What `encode` makes of the doubles, without starting anything; returns the holder's key."""
    archived(job.source, job.archive, shard_photos=1)
    archive = ArchiveWriter.open(job.archive)
    rows = rows_of(job)
    first = rows[DOUBLES[0]]
    archive.put([reference(rows[key], first) for key in DOUBLES[1:]])
    assert is_sound(job)
    return first.key


def test_a_stream_that_is_lost_is_told_by_all_who_share_it_and_comes_back(doubled: EncodeJob) -> None:
    holder = shared(doubled)
    flip_image(doubled, holder)
    report = verify(ArchiveWriter.open(doubled.archive))
    assert {key for damage in report.damages for key in damage.keys} == set(DOUBLES)
    restored = decode(
        DecodeJob(
            archive=doubled.archive, destination=f"{doubled.source}-restored", patterns=KeyPatterns(include=("*[abc].jpg",))
        )
    )
    assert {key for key, _ in restored.failures} == set(DOUBLES)
    Storage(doubled.source).write(holder, photo(70))
    assert mended(doubled).is_complete
    assert rows_of(doubled).keys() == {*DOUBLES, "other.jpg", "bad.jpg", "bad2.jpg"}
    assert is_sound(doubled)


def test_originals_are_there_for_who_shares_too(doubled: EncodeJob) -> None:
    shared(doubled)
    job = replace(doubled, keep_original=KeepOriginal.ALWAYS)
    for key in ("x.jpg", "y.jpg"):
        Storage(job.source).write(key, photo(50))
    summary = encode(job)
    # What is there already has no original to share.
    assert (summary.num_encoded, summary.num_shared) == (1, 1)
    assert holder_of(job, ("x.jpg", "y.jpg"))
    assert {restore(job.archive, key, original=True).data for key in ("x.jpg", "y.jpg")} == {photo(50)}


@pytest.mark.s3
def test_on_s3_tags_decide(s3_url: str) -> None:
    source = Storage(f"{s3_url}/photos")
    job = filled(source, f"{s3_url}/archive")
    before = rows_of(job)
    assert before["0.jpg"].source_etag == next(p.etag for p in list_photos(source.url) if p.key == "0.jpg")
    source.write("0.jpg", photo(0))  # the same once more: another time, and the same tag
    source.write("1.jpg", changed_at(photo(1)))
    source.write("2.jpg", photo(3))
    source.write("3.jpg", photo(3))
    summary = encode(replace(job, dedupe=True))
    assert (summary.num_changed, summary.num_updated, summary.num_skipped, summary.num_shared) == (2, 0, 6, 1)
    after = rows_of(job)
    assert {key for key in KEYS if after[key] != before[key]} == {"1.jpg", "2.jpg"}
    assert after["2.jpg"].same_as == "3.jpg"
    assert is_sound(job)
    assert find_work(list_photos(source.url), ArchiveWriter.open(job.archive)).num_unchanged == 8
