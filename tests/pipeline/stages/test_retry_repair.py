"""What failed is encoded again, what is damaged comes back from the source, and what is sound is left as it is."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction
from PIL import Image

from pipeline.archive.care.verify import VerifyReport, verify
from pipeline.archive.log import ShardInfo
from pipeline.archive.reader import find, read_rows
from pipeline.archive.shard_writer import write_shard
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import CodecAt
from pipeline.decode.job import DecodeJob
from pipeline.decode.restore import restore
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.read import read_block
from pipeline.encode.repair import RepairSummary, repair
from pipeline.encode.retry import retry
from pipeline.encode.run import encode
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
from pipeline.errors import ArchiveDamagedError, CorruptStreamError
from pipeline.on_ray.work import split_work
from pipeline.progress import Progress
from pipeline.records import EncodedPhoto, Outcome, encoded_from_table, photos_to_table
from pipeline.sources.folder import list_photos
from pipeline.sources.selection import Selection
from pipeline.storage.base import Storage
from tests.pipeline.archive.test_archive import row, versions
from tests.pipeline.stages.test_encode_decode import tree

pytestmark = pytest.mark.usefixtures("ray_session")

KEYS = tuple(f"{i}.jpg" for i in range(8))


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((40, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def archived(source: str, archive: str, *, shard_photos: int) -> EncodeJob:
    """What `encode` makes of a source, in shards of known size and without starting anything."""
    worker = EncodeWorker(EncodeSettings(ladder=(CodecAt("webp"),)))
    rows = encoded_from_table(split_work(worker(read_block(photos_to_table(list_photos(source)))))[0])
    for i in range(0, len(rows), shard_photos):
        ArchiveWriter.open_or_create(archive).commit(rows[i : i + shard_photos])
    return EncodeJob(source=source, archive=archive, codec="webp", block_photos=2, commit_interval_s=1e-9)


def filled(source: Storage, archive: str) -> EncodeJob:
    """Eight photos in four shards of two."""
    for i, key in enumerate(KEYS):
        source.write(key, photo(i))
    return archived(source.url, archive, shard_photos=2)


@pytest.fixture
def job(tmp_path: Path) -> EncodeJob:
    return filled(Storage(tmp_path / "photos"), str(tmp_path / "archive"))


def rows_of(job: EncodeJob) -> dict[str, EncodedPhoto]:
    rows = list(read_rows(ArchiveWriter.open(job.archive)))
    assert len({r.key for r in rows}) == len(rows)
    return {r.key: r for r in rows}


def shard_of(job: EncodeJob, key: str) -> ShardInfo:
    (shard,) = (s for s in ArchiveWriter.open(job.archive).shards() if s.least_key <= key <= s.greatest_key)
    return shard


def flip(job: EncodeJob, path: str, offset: int) -> None:
    storage = Storage(job.archive)
    data = bytearray(storage.read(path))
    data[offset] ^= 4
    storage.write(path, bytes(data))


def flip_image(job: EncodeJob, key: str) -> None:
    """One bit of the bitstream of `key`."""
    shard, image = shard_of(job, key), find(ArchiveWriter.open(job.archive), key).image
    assert image
    flip(job, shard.path, Storage(job.archive).read(shard.path).find(image) + len(image) // 2)


def mended(job: EncodeJob, report: VerifyReport | None = None) -> RepairSummary:
    """What a repair came to; afterwards nothing is damaged."""
    summary = repair(job, report or verify(ArchiveWriter.open(job.archive)))
    assert verify(ArchiveWriter.open(job.archive)).damages == ()
    return summary


def test_what_failed_is_encoded_again_and_the_rest_stays(tmp_path: Path) -> None:
    source, archive = tmp_path / "photos", str(tmp_path / "archive")
    source.mkdir()
    bad = {"b.jpg": b"", "c.jpg": photo(3)[:300], "gone.jpg": b"", "other.jpg": b"no", "same.jpg": b"no"}
    for name, data in {"a.jpg": photo(1), **bad}.items():
        (source / name).write_bytes(data)
    job = archived(str(source), archive, shard_photos=4)
    before = rows_of(job)
    (source / "b.jpg").write_bytes(photo(2))
    (source / "c.jpg").write_bytes(photo(3))
    (source / "gone.jpg").unlink()
    (source / "other.jpg").write_bytes(b"")
    (source / "new.jpg").write_bytes(photo(4))
    files = tree(source)

    summary = retry(job)
    assert (summary.num_photos, summary.num_encoded, summary.num_failed, summary.num_skipped) == (5, 2, 2, 1)
    after = rows_of(job)
    assert after.keys() == before.keys() - {"gone.jpg"}  # what is new is for `encode`
    assert summary.gone_failures == {"gone.jpg": before["gone.jpg"].reason}
    assert {key for key in after if after[key] == before[key]} == {"a.jpg", "same.jpg"}
    assert [after[key].outcome for key in ("b.jpg", "c.jpg")] == [Outcome.ENCODED] * 2
    assert ("not an image" in (before["other.jpg"].reason or ""), "empty" in (after["other.jpg"].reason or "")) == (True, True)
    assert Image.open(io.BytesIO(restore(archive, "b.jpg").data)).size == (40, 30)
    assert all(keys == sorted(after) for keys in versions(archive)[3:])
    assert verify(ArchiveWriter.open(archive)).is_clean
    assert tree(source) == files


def test_a_failure_whose_file_is_gone_is_settled(job: EncodeJob, tmp_path: Path) -> None:
    source = Storage(job.source)
    bad = {"bad.jpg": "", "worse.jpg": "no photo"}
    for key, text in bad.items():
        source.write(key, text.encode())
    archived(job.source, job.archive, shard_photos=20)
    (tmp_path / "empty").mkdir()

    summary = encode(job)
    assert ([*summary.not_stored], summary.gone_failures, summary.is_complete) == ([*bad], {}, False)
    for key in (*bad, "7.jpg"):
        source.delete(key)
    summary = encode(job)
    assert ([*summary.gone_failures], summary.not_stored, summary.num_gone, summary.is_complete) == ([*bad], {}, 3, True)
    summary = retry(replace(job, selection=Selection(exclude=("w*",))))  # it may be there
    assert ([*summary.gone_failures], summary.is_complete) == (["bad.jpg"], True)
    summary = retry(replace(job, source=str(tmp_path / "empty")))
    assert (summary.gone_failures, [*summary.not_stored], summary.is_complete) == ({}, ["worse.jpg"], False)
    assert retry(job).is_complete
    assert rows_of(job).keys() == set(KEYS)
    assert (retry(job).num_photos, encode(job).gone_failures) == (0, {})


def test_a_decode_of_failures_alone_needs_no_ray(job: EncodeJob, tmp_path: Path) -> None:
    Storage(job.source).write("bad.jpg", b"no photo")
    archived(job.source, job.archive, shard_photos=20)
    to = DecodeJob(archive=job.archive, destination=str(tmp_path / "out"), resume=True)
    assert decode(to).num_restored == 8

    def connect() -> None:
        raise AssertionError("Ray is started")

    summary = decode(to, connect=connect)
    assert (summary.num_photos, summary.num_skipped, summary.num_restored) == (9, 8, 0)
    assert [(key, "not an image" in why) for key, why in summary.failures] == [("bad.jpg", True)]
    (tmp_path / "out" / "3.jpg").unlink()
    summary = decode(to)
    assert (summary.num_photos, summary.num_restored, summary.num_failed) == (9, 1, 1)


def test_a_job_that_another_one_outran_says_so(job: EncodeJob) -> None:
    source = Storage(job.source)
    for key in ("new.jpg", "other.jpg"):
        source.write(key, photo(20))
    source.write("bad.jpg", b"no photo")

    def outrun(what: str) -> None:
        if what == "starting Ray":
            summary = encode(replace(job, codec="jpeg", selection=Selection(exclude=("other*",))))
            assert (summary.num_encoded, summary.num_failed, summary.num_stored_meanwhile) == (1, 1, 0)

    summary = encode(job, on_wait=outrun)
    assert (summary.num_new, summary.num_encoded, summary.num_stored_meanwhile, summary.num_failed) == (2, 1, 1, 1)
    assert (summary.num_other_recipe, [recipe[:4] for recipe in summary.other_recipes]) == (1, ["jpeg"])
    assert [*summary.not_stored] == ["bad.jpg"]
    assert find(ArchiveWriter.open(job.archive), "new.jpg").codec == "jpeg"


def test_missing_and_damaged_shards_come_back_and_sound_ones_stay(job: EncodeJob) -> None:
    before = rows_of(job)
    files = tree(Path(job.source))
    flip_image(job, "2.jpg")
    footer = shard_of(job, "4.jpg")
    flip(job, footer.path, Storage(job.archive).read(footer.path).rfind(b"parquet-cpp-arrow"))
    (Path(job.archive) / shard_of(job, "0.jpg").path).unlink()
    with pytest.raises(ArchiveDamagedError):
        encode(job)
    summary = mended(job)
    assert (summary.num_shards, summary.num_encoded, summary.is_complete) == (3, 4, True)
    after = rows_of(job)
    assert {key: r.source_sha256 for key, r in after.items()} == {key: r.source_sha256 for key, r in before.items()}
    # Written again, the rows of the shard with the damaged footer are the very file: they were sound.
    assert [key for key in KEYS if after[key] == before[key]] == ["4.jpg", "5.jpg", "6.jpg", "7.jpg"]
    assert shard_of(job, "4.jpg").path == footer.path
    assert all(find(ArchiveWriter.open(job.archive), key) == after[key] for key in KEYS)
    assert encode(job).num_skipped == 8
    assert tree(Path(job.source)) == files


def test_what_the_source_no_longer_has_is_told_and_leaves_a_row(job: EncodeJob) -> None:
    before = rows_of(job)
    flip_image(job, "2.jpg")
    (Path(job.archive) / shard_of(job, "4.jpg").path).unlink()
    bad = shard_of(job, "6.jpg")
    for key in ("3.jpg", "5.jpg"):
        (Path(job.source) / key).unlink()
    (Path(job.source) / "2.jpg").write_bytes(b"spoilt")
    (Path(job.source) / "6.jpg").unlink()

    def decode(encoded: EncodedPhoto) -> None:
        if encoded.key in ("6.jpg", "7.jpg"):
            raise CorruptStreamError("the symbols do not match")

    summary = mended(job, verify(ArchiveWriter.open(job.archive), decode))
    assert (summary.failed, summary.lost, summary.doubtful) == (["2.jpg"], ["3.jpg", "5.jpg"], ["6.jpg"])
    assert (summary.num_shards, summary.num_encoded, summary.is_complete) == (3, 2, False)
    after = rows_of(job)
    assert after.keys() == set(KEYS)
    assert after["6.jpg"] == before["6.jpg"]
    assert after["7.jpg"].encoded_at != before["7.jpg"].encoded_at
    assert "not an image" in (after["2.jpg"].reason or "")
    assert (after["3.jpg"].reason or "").startswith("lost: shard photos-")
    assert bad.path not in {s.path for s in ArchiveWriter.open(job.archive).shards()}


def test_one_row_group_is_lost_and_the_others_stay_byte_for_byte(tmp_path: Path) -> None:
    source, url = Storage(tmp_path / "photos"), str(tmp_path / "archive")
    archive = ArchiveWriter.open_or_create(url)
    archive.commit([row(key, size=1_200_000) for key in KEYS[:6]])
    for i in range(3):
        source.write(KEYS[i], photo(i))
    job = EncodeJob(source=source.url, archive=url, codec="webp")
    before = rows_of(job)
    flip_image(job, "1.jpg")
    summary = mended(job)
    assert (summary.num_rows_kept, summary.num_encoded, summary.is_complete) == (3, 3, True)
    after = rows_of(job)
    assert [key for key in KEYS[:6] if after[key] == before[key]] == list(KEYS[3:6])
    assert after["1.jpg"].codec == "webp"


def test_rows_of_a_missing_shard_that_nobody_names_are_counted(job: EncodeJob) -> None:
    archive = ArchiveWriter.open(job.archive)
    rows = rows_of(job)
    archive.put(list(rows.values()), drop=[s.path for s in archive.shards()])
    (shard,) = archive.shards()
    (Path(job.archive) / shard.path).unlink()
    for key in ("3.jpg", "4.jpg", "7.jpg"):
        (Path(job.source) / key).unlink()
    summary = mended(job)
    # The log knows the greatest key, not those in between.
    assert (summary.num_encoded, summary.lost, summary.num_unnamed) == (5, ["7.jpg"], 2)
    assert rows_of(job).keys() == set(KEYS) - {"3.jpg", "4.jpg"}


def test_statistics_and_repeated_keys_are_set_right_without_encoding(job: EncodeJob) -> None:
    before = rows_of(job)
    published = {(s.path, s.num_rows, s.least_key, s.greatest_key) for s in ArchiveWriter.open(job.archive).shards()}
    shard = shard_of(job, "2.jpg")
    lie = json.dumps({"numRecords": 9, "minValues": {"key": "3.jpg"}, "maxValues": {"key": "9.jpg"}})
    action = AddAction(
        path=shard.path, size=shard.size_bytes, partition_values={}, modification_time=0, data_change=False, stats=lie
    )  # fmt: skip
    table = DeltaTable(job.archive)
    table.create_write_transaction([action], "append", table.schema())
    summary = mended(job)
    assert (summary.num_shards, summary.num_encoded, summary.num_rows_kept) == (1, 0, 2)
    # Built again from the shards, they are what was published.
    assert {(s.path, s.num_rows, s.least_key, s.greatest_key) for s in ArchiveWriter.open(job.archive).shards()} == published
    archive = ArchiveWriter.open(job.archive)
    worse = write_shard(archive.storage, [row("0.jpg", outcome=Outcome.FAILED), row("x.jpg")])
    assert archive.log.swap([], [worse])
    mended(job)
    assert find(ArchiveWriter.open(job.archive), "0.jpg") == before["0.jpg"]
    assert rows_of(job).keys() == {*KEYS, "x.jpg"}


def test_a_repair_that_stops_half_way_goes_on(job: EncodeJob) -> None:
    for key in ("0.jpg", "2.jpg", "4.jpg", "6.jpg"):
        flip_image(job, key)
    report = verify(ArchiveWriter.open(job.archive))
    damaged = {damage.shard for damage in report.damages}
    assert len(damaged) == 4

    class Killed(BaseException):
        pass

    def stop(progress: Progress) -> None:
        if progress.num_done >= 2:
            raise Killed

    with pytest.raises(Killed):
        repair(job, report, stop)
    left = {damage.shard for damage in verify(ArchiveWriter.open(job.archive)).damages}
    assert left < damaged
    keys = sorted(key for s in ArchiveWriter.open(job.archive).shards() for key in (s.least_key, s.greatest_key))
    assert keys == list(KEYS)
    summary = mended(job, report)  # an old report does no harm
    assert summary.num_shards == len(left)
    assert rows_of(job).keys() == set(KEYS)


@pytest.mark.s3
def test_retry_and_repair_on_s3(s3_url: str) -> None:
    source = Storage(f"{s3_url}/photos")
    job = filled(source, f"{s3_url}/archive")
    late = EncodedPhoto(
        key="late.jpg", image=None, codec=None, model=None, outcome=Outcome.FAILED, reason="the file is empty",
        source_uri=source.uri("late.jpg"), source_bytes=0,
    )  # fmt: skip
    ArchiveWriter.open(job.archive).commit([late])
    source.write("late.jpg", photo(9))
    assert retry(job).num_encoded == 1
    flip_image(job, "2.jpg")
    Storage(job.archive).delete(shard_of(job, "4.jpg").path)
    summary = mended(job)
    assert (summary.num_shards, summary.num_encoded, summary.is_complete) == (2, 4, True)
    assert rows_of(job).keys() == {*KEYS, "late.jpg"}
    assert Image.open(io.BytesIO(restore(job.archive, "4.jpg").data)).size == (40, 30)
