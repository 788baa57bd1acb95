"""Rows of another recipe are counted, and encoded again when that is asked for; nothing else changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.archive.care.verify import verify
from pipeline.archive.references import reference
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import CodecAt, parse_ladder
from pipeline.codecs.registry import CodecOptions
from pipeline.decode.restore import decode_row, restore
from pipeline.encode.estimate import estimate
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.errors import StreamError
from pipeline.quality.gate import parse_gate
from pipeline.records import KeepOriginal, Outcome
from pipeline.storage.base import Storage
from tests.pipeline.archive.test_archive import versions
from tests.pipeline.stages.test_retry_repair import KEYS, archived, filled, mended, photo, rows_of

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def job(tmp_path: Path) -> EncodeJob:
    """Eight photos as WebP of the usual quality, in four shards of two; and a job that makes AVIF of them."""
    return replace(filled(Storage(tmp_path / "photos"), str(tmp_path / "archive")), codec="avif")


def test_rows_of_another_recipe_are_counted_and_encoded_again_on_request(job: EncodeJob) -> None:
    source, before = Path(job.source), rows_of(job)
    assert {row.recipe for row in before.values()} == {"webp:75"}
    (source / "0.jpg").unlink()
    (source / "1.jpg").write_bytes(photo(20))
    data, at = bytearray((source / "2.jpg").read_bytes()), (source / "2.jpg").stat()
    data[:2] = b"no"  # no photo any more, and as old and large as before
    (source / "2.jpg").write_bytes(data)
    os.utime(source / "2.jpg", ns=(at.st_atime_ns, at.st_mtime_ns))
    found = estimate(replace(job, recode=True))
    assert (found.num_todo, found.num_new, found.num_changed, found.num_recoded) == (7, 0, 1, 6)
    assert (estimate(job).num_todo, estimate(job).other_recipes) == (1, {"webp:75": 6})

    summary = encode(job)
    assert (summary.num_changed, summary.num_skipped, summary.num_other_recipe, summary.num_recoded) == (1, 6, 6, 0)
    assert {key for key, row in rows_of(job).items() if row != before[key]} == {"1.jpg"}

    summary = encode(replace(job, recode=True))
    assert (summary.num_recoded, summary.num_changed, summary.num_encoded, summary.num_skipped) == (6, 0, 5, 1)
    assert (summary.num_failed, summary.num_outdated, summary.num_other_recipe, summary.not_stored) == (1, 1, 1, {})
    after = rows_of(job)
    assert {key for key, row in after.items() if row.recipe == "avif:60"} == set(KEYS) - {"0.jpg", "2.jpg"}
    assert (after["0.jpg"], after["2.jpg"]) == (before["0.jpg"], before["2.jpg"])
    assert verify(ArchiveWriter.open(job.archive), decode_row).is_clean
    assert all(len(keys) == len(set(keys)) == 8 for keys in versions(job.archive)[4:])
    # What failed is tried again, and nothing else.
    assert (again := encode(replace(job, recode=True))).num_recoded == again.num_failed == 1


def test_a_recode_that_was_stopped_goes_on(job: EncodeJob) -> None:
    job = replace(job, recode=True, options=CodecOptions(quality=30), block_photos=1)
    first = encode(job, should_stop=lambda: sum(row.recipe == "avif:30" for row in rows_of(job).values()) >= 2)
    assert first.stopped
    done = sum(row.recipe == "avif:30" for row in rows_of(job).values())
    assert 2 <= done < 8
    second = encode(job)
    assert (second.num_recoded, second.num_skipped, second.num_other_recipe) == (8 - done, done, 0)


def test_rows_without_a_recipe_are_compared_by_codec(job: EncodeJob) -> None:
    ArchiveWriter.open(job.archive).put([replace(row, recipe=None) for row in rows_of(job).values()])
    same = replace(job, codec="webp", options=CodecOptions(quality=30), recode=True)
    assert (found := encode(same)).num_unknown_recipe == found.num_skipped == 8
    assert (found.num_other_recipe, found.num_recoded) == (0, 0)
    assert estimate(replace(job, recode=True)).other_recipes == {"webp": 8}


def test_a_stream_that_is_shared_is_recoded_once_and_goes_on_being_shared(job: EncodeJob) -> None:
    archive, rows = ArchiveWriter.open(job.archive), rows_of(job)
    for key in ("7.jpg", "x.jpg"):
        Storage(job.source).write(key, photo(0))
    twins = rows_of(archived(job.source, f"{job.archive}-2", shard_photos=9))
    archive.put([reference(twins[key], rows["0.jpg"]) for key in ("7.jpg", "x.jpg")])

    summary = encode(replace(job, recode=True))
    assert (summary.num_recoded, summary.num_encoded, summary.num_other_recipe) == (9, 7, 0)
    after = rows_of(job)
    for key in ("7.jpg", "x.jpg"):
        assert (after[key].same_as, after[key].codec, after[key].recipe) == ("0.jpg", "avif", "avif:60")
        assert restore(job.archive, key).data == restore(job.archive, "0.jpg").data
    # Without its photo, the holder stays, and the others get a stream of their own.
    (Path(job.source) / "0.jpg").unlink()
    summary = encode(replace(job, codec="jpeg", recode=True))
    assert (summary.num_recoded, summary.num_gone) == (8, 1)
    assert [rows_of(job)[key].codec for key in ("0.jpg", "7.jpg", "x.jpg")] == ["avif", "jpeg", "jpeg"]


def test_a_holder_that_is_repaired_by_another_codec_is_still_shared(job: EncodeJob) -> None:
    rows = rows_of(job)
    Storage(job.source).write("7.jpg", photo(0))
    twin = rows_of(archived(job.source, f"{job.archive}-2", shard_photos=9))["7.jpg"]
    ArchiveWriter.open(job.archive).put([reference(twin, rows["0.jpg"])])

    def damaged(row: object) -> None:
        if getattr(row, "key", None) == "0.jpg":
            raise StreamError("its symbols do not match")

    mended(job, verify(ArchiveWriter.open(job.archive), damaged))
    assert rows_of(job)["7.jpg"].codec == "avif"
    assert restore(job.archive, "7.jpg").data == restore(job.archive, "0.jpg").data


def test_a_recipe_says_what_a_row_depends_on(job: EncodeJob) -> None:
    row = replace(rows_of(job)["0.jpg"], codec="avif")
    ladder = parse_ladder("ditic-small:3,avif:60,original")

    def recipe(**changes: object) -> str:
        return replace(job, **changes).settings().recipe().encoded  # type: ignore[arg-type]

    assert recipe() == "avif:60"
    assert recipe(ladder=(CodecAt("avif", 60), CodecAt("original"))) == "avif:60"
    gated = recipe(ladder=ladder, gate=parse_gate("psnr=30,ms_ssim=0.95"), strip_gps=True)
    assert gated.startswith("ditic-small:3@")
    assert gated.endswith(",avif:60 gate=ms_ssim=0.95,psnr=30 strip-gps")
    assert recipe(keep_original=KeepOriginal.ALWAYS) == "avif:60 keep=always"

    made = job.settings().recipe().made
    assert made(replace(row, recipe="avif:60")) is True
    assert made(replace(row, recipe="avif:50")) is False
    kept = replace(row, codec="original", outcome=Outcome.KEPT, reason="16 bits a channel", recipe="any")
    assert made(kept) is True
    # A stream that is no smaller than its file, of a job that might not keep the file.
    unkept = replace(job, keep_original=KeepOriginal.NEVER).settings().recipe().made
    larger = replace(row, recipe="avif:60 keep=never")
    assert (made(larger), unkept(larger), unkept(replace(row, recipe="avif:60"))) == (False, True, True)
    lossless = replace(job, codec="jxl", options=CodecOptions(quality=100)).settings().recipe()
    assert (lossless.made(kept), lossless.made(replace(kept, format="PNG"))) == (False, True)
    assert lossless.made(replace(kept, recipe="jxl:100")) is True
    assert made(replace(kept, recipe="webp:75")) is False
    assert replace(job, strip_gps=True).settings().recipe().made(kept) is False
    assert replace(job, keep_original=KeepOriginal.NEVER).settings().recipe().made(kept) is False
    assert made(replace(kept, recipe=None)) is None
    assert made(replace(kept, recipe=None, reason=None)) is False  # `original` was asked for
