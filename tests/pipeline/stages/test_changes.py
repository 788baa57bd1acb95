"""The same command later: what is new or changed is encoded, what is the same stays, and bytes that come twice may share."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.commit import Archive
from pipeline.archive.compare import version_of
from pipeline.archive.summary import summarise
from pipeline.archive.verify import verify
from pipeline.container_check import check_container
from pipeline.progress import Progress
from pipeline.records import BLOB_COLUMNS, EncodedPhoto, KeepOriginal, Outcome
from pipeline.restoration import decode_row, restore
from pipeline.sources.folder import list_photos
from pipeline.stages.decode import DecodeJob, decode
from pipeline.stages.encode import EncodeJob, encode
from pipeline.stages.estimate import estimate
from pipeline.storage import Storage
from tests.pipeline.archive.test_archive import versions
from tests.pipeline.stages.test_encode_decode import tree
from tests.pipeline.stages.test_retry_repair import KEYS, archived, filled, flip_image, mended, photo, rows_of

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def job(tmp_path: Path) -> EncodeJob:
    """Eight photos in four shards of two."""
    return filled(Storage(tmp_path / "photos"), str(tmp_path / "archive"))


def is_sound(job: EncodeJob) -> bool:
    return verify(Archive.open(job.archive), decode_row, check=check_container).is_clean


def set_time(path: Path, time_s: float) -> None:
    os.utime(path, (time_s, time_s))


def test_changed_photos_are_encoded_again_in_the_place_of_their_rows(job: EncodeJob) -> None:
    source = Path(job.source)
    before = rows_of(job)
    (source / "0.jpg").write_bytes(photo(20))  # another size
    data = bytearray(photo(1))
    data[-3] ^= 1
    (source / "1.jpg").write_bytes(data)  # other bytes, as many
    set_time(source / "1.jpg", 1_700_000_000.25)
    set_time(source / "2.jpg", 1_700_000_001.5)  # another time alone
    (source / "3.jpg").unlink()
    (source / "new.jpg").write_bytes(photo(21))
    expected = estimate(job)
    assert (expected.num_photos, expected.num_todo, expected.num_changed) == (8, 4, 3)

    summary = encode(job)
    assert (summary.num_photos, summary.num_new, summary.num_changed, summary.num_updated) == (8, 1, 2, 1)
    assert (summary.num_skipped, summary.num_gone, summary.num_encoded) == (4, 1, 3)
    after = rows_of(job)
    assert after.keys() == {*KEYS, "new.jpg"}
    assert {key for key in KEYS if after[key] == before[key]} == {"3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg"}
    # The stream of what only got another time is the one that was there.
    assert after["2.jpg"] == replace(before["2.jpg"], modified_at=after["2.jpg"].modified_at)
    assert all(after[p.key].source_bytes == p.size_bytes for p in list_photos(job.source))
    assert all(after[p.key].modified_at == p.modified_at for p in list_photos(job.source))
    assert after["0.jpg"].source_sha256 == tree(source)["0.jpg"] != before["0.jpg"].source_sha256
    assert after["1.jpg"].source_sha256 == tree(source)["1.jpg"] != before["1.jpg"].source_sha256
    assert is_sound(job)
    assert all(len(keys) == len(set(keys)) >= 8 for keys in versions(job.archive)[5:])
    again = encode(job)
    assert (again.num_skipped, again.num_new, again.num_changed, again.num_updated) == (8, 0, 0, 0)
    assert rows_of(job) == after


def test_with_checksums_the_bytes_decide(job: EncodeJob) -> None:
    path = Path(job.source) / "5.jpg"
    before, at = rows_of(job), path.stat().st_mtime_ns
    data = bytearray(photo(5))
    data[-3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(at, at))
    set_time(path.with_name("6.jpg"), 1_700_000_000)
    assert encode(replace(job, checksum=False)).num_updated == 1
    assert rows_of(job)["5.jpg"] == before["5.jpg"]
    num_versions = len(versions(job.archive))
    summary = encode(replace(job, checksum=True))
    assert (summary.num_changed, summary.num_updated, summary.num_skipped) == (1, 0, 7)
    assert rows_of(job)["5.jpg"].source_sha256 == tree(Path(job.source))["5.jpg"] != before["5.jpg"].source_sha256
    assert len(versions(job.archive)) == num_versions + 1  # and what is the same leaves no trace


def test_a_failure_is_tried_again_when_its_photo_changed_and_never_takes_a_photos_place(job: EncodeJob) -> None:
    source = Path(job.source)
    before = rows_of(job)
    (source / "0.jpg").write_bytes(b"spoilt")
    (source / "late.jpg").write_bytes(b"half a")
    first = encode(job)
    assert (first.num_new, first.num_changed, first.num_failed) == (1, 1, 2)
    assert {key for key, _ in first.failures} == {"0.jpg", "late.jpg"}
    after = rows_of(job)
    assert after["0.jpg"] == before["0.jpg"]
    assert after["late.jpg"].outcome is Outcome.FAILED
    # The one that has a photo in the archive is told each time; the one that failed as it is now, once.
    again = encode(job)
    assert (again.num_changed, again.num_failed, again.num_skipped) == (1, 1, 8)
    (source / "late.jpg").write_bytes(photo(30))
    (source / "0.jpg").write_bytes(photo(31))
    assert (summary := encode(job)).num_changed == summary.num_encoded == 2
    assert rows_of(job)["late.jpg"].outcome is Outcome.ENCODED
    assert is_sound(job)


def test_a_job_that_read_an_earlier_version_does_not_win(job: EncodeJob, tmp_path: Path) -> None:
    """Between the reading of a new photo and its commit, another job commits a newer version of it."""
    source = Path(job.source)
    for key in ("new.jpg", "same.jpg"):
        (source / key).write_bytes(photo(40))
        set_time(source / key, 1_700_000_000)
    other = archived_rows(job.source, tmp_path / "other")  # of another job, which reads the same version
    newer: list[EncodedPhoto] = []

    def race(progress: Progress) -> None:
        if not newer:
            (source / "new.jpg").write_bytes(photo(41))
            newer.append(archived_rows(job.source, tmp_path / "newer")["new.jpg"])
            assert Archive.open(job.archive).commit([newer[0], other["same.jpg"]]) == 2

    summary = encode(replace(job, block_photos=16, commit_interval_s=600), race)
    assert summary.num_new == 2
    assert rows_of(job)["new.jpg"] == newer[0]
    assert rows_of(job)["same.jpg"] == other["same.jpg"]
    assert is_sound(job)


def archived_rows(source: str, archive: Path) -> dict[str, EncodedPhoto]:
    return rows_of(archived(source, str(archive), shard_photos=100))


def test_of_two_that_change_a_row_the_newer_version_stays(job: EncodeJob) -> None:
    archive, first = Archive.open(job.archive), rows_of(job)["0.jpg"]
    assert first.modified_at is not None
    seen = {"0.jpg": version_of(first)}
    older, newer = (
        replace(first, source_sha256=sha256, modified_at=first.modified_at.replace(year=year))
        for sha256, year in (("1" * 64, 2001), ("2" * 64, 2099))
    )
    # What a job found when it began may go back in time, as a source can: a photo that came back from a copy.
    assert archive.commit([older], seen=seen) == 1
    assert archive.commit([newer], seen=seen) == 1
    assert Archive.open(job.archive).commit([replace(older, modified_at=first.modified_at)], seen=seen) == 0
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


def holder_of(job: EncodeJob) -> str:
    """Of the doubles, the one with the stream; the others refer to it and hold nothing else."""
    rows = {key: row for key, row in rows_of(job).items() if key in DOUBLES}
    (holder,) = (key for key, row in rows.items() if row.image is not None)
    for key in rows.keys() - {holder}:
        assert rows[key].same_as == holder
        assert all(getattr(rows[key], name) is None for name in BLOB_COLUMNS)
        assert (rows[key].outcome, rows[key].codec, rows[key].width) == (Outcome.ENCODED, "webp", 40)
    return holder


def test_the_same_bytes_share_a_stream(doubled: EncodeJob, tmp_path: Path) -> None:
    summary = encode(doubled)
    assert (summary.num_new, summary.num_encoded, summary.num_shared, summary.num_failed) == (6, 2, 2, 2)
    holder = holder_of(doubled)
    assert is_sound(doubled)
    files = {key: restore(doubled.archive, key).data for key in DOUBLES}
    assert len(set(files.values())) == 1
    assert restore(doubled.archive, "a.jpg").modified_at == rows_of(doubled)["a.jpg"].modified_at
    restored = decode(DecodeJob(archive=doubled.archive, destination=str(tmp_path / "restored")))
    assert (restored.num_restored, restored.num_failed) == (4, 2)
    assert {key: (tmp_path / "restored" / key).read_bytes() for key in DOUBLES} == files
    totals, streams = summarise(Archive.open(doubled.archive)), [row.image for row in rows_of(doubled).values() if row.image]
    assert (totals.num_photos, len(streams), totals.stream_bytes) == (6, 2, sum(map(len, streams)))
    # A later photo shares too, also under another time; and without --dedupe it has a stream of its own.
    Storage(doubled.source).write("late.jpg", photo(50))
    assert (summary := encode(doubled)).num_shared == summary.num_new == 1
    assert rows_of(doubled)["late.jpg"].same_as == holder
    Storage(doubled.source).write("own.jpg", photo(50))
    assert encode(replace(doubled, dedupe=False)).num_encoded == 1
    assert rows_of(doubled)["own.jpg"].same_as is None
    assert encode(doubled).num_skipped == 8
    assert is_sound(doubled)


def test_a_stream_passes_on_to_who_shares_it(doubled: EncodeJob) -> None:
    encode(doubled)
    before, first = restore(doubled.archive, "a.jpg").data, holder_of(doubled)
    num_versions = len(versions(doubled.archive))
    Storage(doubled.source).write(first, photo(60))
    assert (summary := encode(doubled)).num_changed == summary.num_encoded == 1
    assert len(versions(doubled.archive)) == num_versions + 1
    left = set(DOUBLES) - {first}
    rows = rows_of(doubled)
    assert [rows[key].same_as for key in sorted(left)] == [None, min(left)]
    assert {restore(doubled.archive, key).data for key in left} == {before}
    assert rows[first].source_sha256 != rows[min(left)].source_sha256
    # And the one that came back to the bytes of before refers to them again.
    Storage(doubled.source).write(first, photo(50))
    assert (summary := encode(doubled)).num_changed == summary.num_shared == 1
    assert holder_of(doubled) == min(left)
    assert is_sound(doubled)


def test_a_stream_that_is_lost_is_told_by_all_who_share_it_and_comes_back(doubled: EncodeJob) -> None:
    encode(doubled)
    holder = holder_of(doubled)
    flip_image(doubled, holder)
    report = verify(Archive.open(doubled.archive))
    assert {key for damage in report.damages for key in damage.keys} >= set(DOUBLES)
    Storage(doubled.source).write(holder, photo(70))
    assert mended(doubled).is_complete
    assert rows_of(doubled).keys() == {*DOUBLES, "other.jpg", "bad.jpg", "bad2.jpg"}
    assert is_sound(doubled)


def test_originals_are_there_for_who_shares_too(doubled: EncodeJob) -> None:
    encode(doubled)
    job = replace(doubled, keep_original=KeepOriginal.ALWAYS)
    for key in ("x.jpg", "y.jpg"):
        Storage(job.source).write(key, photo(50))
    summary = encode(job)
    # What is there already has no original to share.
    assert (summary.num_encoded, summary.num_shared) == (1, 1)
    assert {restore(job.archive, key, original=True).data for key in ("x.jpg", "y.jpg")} == {photo(50)}


@pytest.mark.s3
def test_on_s3_tags_decide(s3_url: str) -> None:
    source = Storage(f"{s3_url}/photos")
    job = filled(source, f"{s3_url}/archive")
    before = rows_of(job)
    assert before["0.jpg"].source_etag == next(p.etag for p in list_photos(source.url) if p.key == "0.jpg")
    source.write("0.jpg", photo(0))  # the same once more: another time, and the same tag
    data = bytearray(photo(1))
    data[-3] ^= 1
    source.write("1.jpg", bytes(data))
    source.write("2.jpg", photo(3))
    source.write("3.jpg", photo(3))
    summary = encode(replace(job, dedupe=True))
    assert (summary.num_changed, summary.num_updated, summary.num_skipped, summary.num_shared) == (2, 0, 6, 1)
    after = rows_of(job)
    assert {key for key in KEYS if after[key] != before[key]} == {"1.jpg", "2.jpg"}
    assert after["2.jpg"].same_as == "3.jpg"
    assert is_sound(job)
    assert encode(job).num_skipped == 8
