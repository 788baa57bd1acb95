"""Rows that share a stream, rows of changed sources, and writers that race over both."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder, Schema

import pipeline.archive
from pipeline.archive.care.optimize import optimize
from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import verify
from pipeline.archive.reader import find, read_rows
from pipeline.archive.schema import schema_with_features
from pipeline.archive.versions import version_of
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError
from pipeline.records import EncodedPhoto, Outcome
from tests.pipeline.archive.test_archive import archive, row

__all__ = ["archive"]

FORMAT = Path(pipeline.archive.__file__).with_name("FORMAT.md")
TIME = datetime(2024, 5, 1, tzinfo=UTC)


def made_of(key: str, data: bytes, *, day: int = 1) -> EncodedPhoto:
    """A row of a source file with these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return replace(row(key), source_bytes=len(data), source_sha256=digest, modified_at=TIME.replace(day=day))


def same(key: str, holder: str, data: bytes) -> EncodedPhoto:
    """What a job knows of a photo whose bytes are those of another."""
    return EncodedPhoto(
        key=key, image=None, codec=None, model=None, outcome=Outcome.KEPT, same_as=holder, source_uri=f"/photos/{key}",
        source_bytes=len(data), source_sha256=hashlib.sha256(data).hexdigest(), modified_at=TIME,
    )  # fmt: skip


def reread(archive: ArchiveWriter) -> dict[str, EncodedPhoto]:
    return {r.key: r for r in read_rows(ArchiveWriter.open(archive.storage.url))}


def test_a_reference_waits_for_its_holder_and_takes_over_what_it_says(archive: ArchiveWriter) -> None:
    wanted = [same("b", "a", b"1"), same("c", "b", b"1"), same("d", "a", b"2")]
    assert archive.refer(wanted) == wanted
    holder = made_of("a", b"1")
    archive.commit([holder, row("z", outcome=Outcome.FAILED)])
    # Not by way of another reference, and not with other bytes.
    assert archive.refer(wanted) == wanted[1:]
    rows = reread(archive)
    assert (rows["b"].same_as, rows["b"].image, rows["b"].exif) == ("a", None, None)
    assert (rows["b"].codec, rows["b"].width, rows["b"].bpp) == (holder.codec, holder.width, rows["a"].bpp)
    found = find(archive, "b")
    assert (found.key, found.image, found.exif) == ("b", holder.image, holder.exif)
    assert archive.refer([same("y", "z", b"3"), same("b", "a", b"1")]) == [same("y", "z", b"3")]
    assert verify(archive).is_clean


def test_other_programs_read_shared_streams_as_the_format_says(archive: ArchiveWriter) -> None:
    archive.commit([made_of("a", b"1"), made_of("b", b"2"), row("f", outcome=Outcome.FAILED)])
    archive.refer([same("c", "b", b"2"), same("d", "a", b"1")])
    (query,) = re.findall(r"```sql\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    answer = QueryBuilder().register("archive", DeltaTable(archive.storage.url)).execute(query)
    found = {r["key"]: r["image"] and r["image"]["bytes"] for r in pa.table(answer.read_all()).to_pylist()}
    assert found == {key: find(archive, key).image for key in "abcdf"}


def test_a_reference_that_leads_nowhere_is_damage(archive: ArchiveWriter) -> None:
    archive.commit([made_of("a", b"1"), made_of("b", b"2"), row("f", outcome=Outcome.FAILED)])
    bad = [replace(same(key, holder, b"1")) for key, holder in (("w", "absent"), ("x", "b"), ("y", "f"))]
    archive.put([*bad, replace(same("v", "a", b"1"), image=b"its own")])
    damages = verify(archive).damages
    assert {damage.keys for damage in damages} == {("w",), ("x",), ("y",), ("v",)}
    with pytest.raises(ArchiveDamagedError, match="its stream is not with 'absent'"):
        find(archive, "w")


def test_a_stream_is_inherited_in_the_commit_that_takes_it_away(archive: ArchiveWriter) -> None:
    first = made_of("a", b"1")
    archive.commit([first, made_of("m", b"2")])
    assert not archive.refer([same("b", "a", b"1"), same("n", "a", b"1")])
    archive.commit([made_of("x", b"3")])
    assert not ArchiveWriter.open(archive.storage.url).refer([same("y", "a", b"1")])
    archive.put([made_of("a", b"1")])  # another stream of the same bytes serves as well
    assert {key for key, r in reread(archive).items() if r.same_as == "a"} == {"b", "n", "y"}
    old, version = find(archive, "a"), DeltaTable(archive.storage.url).version()
    # The next in line changes too.
    assert archive.commit([made_of("a", b"4", day=2), made_of("b", b"5", day=2)]) == 2
    assert DeltaTable(archive.storage.url).version() == version + 1
    rows = reread(archive)
    assert [rows[key].same_as for key in "abmnxy"] == [None, None, None, None, None, "n"]
    assert (rows["n"].image, rows["n"].exif, find(archive, "y").image) == (old.image, old.exif, old.image)
    archive.put([replace(row("n", outcome=Outcome.FAILED), modified_at=TIME)])
    assert reread(archive)["y"].image == old.image
    optimize(archive)
    assert verify(archive).is_clean


def test_only_what_a_row_tells_of_its_source_changes(archive: ArchiveWriter) -> None:
    archive.commit([made_of("a", b"1"), made_of("b", b"2")])
    before = reread(archive)["a"]
    changes: dict[str, Any] = {"source_uri": "s3://elsewhere/a", "source_etag": "tag", "modified_at": TIME.replace(day=9)}
    moved = replace(same("a", "a", b"1"), **changes)
    assert archive.commit([moved], seen={"a": version_of(before)}) == 1
    assert reread(archive)["a"] == replace(before, **changes)
    # Not once another writer has replaced the row.
    archive.put([newer := made_of("a", b"3", day=3)])
    assert archive.commit([moved], seen={"a": version_of(before)}) == 0
    assert reread(archive)["a"].image == newer.image


def test_who_only_moved_inherits_like_others_when_the_stream_goes_in_the_same_commit(archive: ArchiveWriter) -> None:
    archive.commit([made_of("a", b"1"), made_of("m", b"2")])
    assert not archive.refer([same("b", "a", b"1"), same("c", "a", b"1"), same("n", "m", b"2")])
    before, old = reread(archive), {key: find(archive, key).image for key in "abcmn"}
    moved = [replace(same(key, key, b"1"), modified_at=TIME.replace(day=9)) for key in "bc"]
    seen = {key: version_of(before[key]) for key in before}
    assert archive.commit([made_of("a", b"4", day=2), *moved], seen=seen) == 3
    rows = reread(archive)
    assert [rows[key].same_as for key in "abcmn"] == [None, None, "b", None, "m"]
    assert {find(archive, key).image for key in "bc"} == {old["a"]} != {find(archive, "a").image}
    assert [rows[key].modified_at for key in "bc"] == [TIME.replace(day=9)] * 2
    # The holder itself moved: what refers to it stays.
    assert archive.commit([replace(same("m", "m", b"2"), source_uri="s3://elsewhere/m")]) == 0
    assert archive.commit([replace(same("m", "m", b"2"), source_uri="s3://elsewhere/m")], seen=seen) == 1
    assert (reread(archive)["n"].same_as, find(archive, "n").image) == ("m", old["m"])
    assert verify(archive).is_clean


def test_rows_that_another_job_was_faster_with_are_referred_to_by_nobody(archive: ArchiveWriter) -> None:
    other = ArchiveWriter.open(archive.storage.url)
    # Both found a.jpg and its twin; the other committed a newer version of it first.
    other.commit([made_of("a", b"newer", day=3)])
    assert archive.commit([made_of("a", b"1")]) == 0
    twin = same("b", "a", b"1")
    assert archive.refer([twin]) == [twin]
    assert reread(archive).keys() == {"a"}
    # And the one that it refers to loses its stream just before.
    other.commit([made_of("c", b"1")])
    assert other.commit([made_of("c", b"5", day=4)]) == 1
    assert archive.refer([replace(twin, same_as="c")]) == [replace(twin, same_as="c")]
    archive.commit([made_of("b", b"1")])
    assert verify(archive).is_clean


def changing_races(url: str) -> None:
    """Two jobs that change the same rows, one that adds, one whose rows share the streams that the others take away."""
    archive = ArchiveWriter.open(url)
    old = {f"{i:02d}": made_of(f"{i:02d}", b"old %d" % i) for i in range(8)}
    archive.commit(list(old.values()))
    seen = {key: version_of(r) for key, r in old.items()}
    new = [made_of(key, b"new " + key.encode(), day=2) for key in list(old)[:6]]
    newest = [made_of(key, b"newest " + key.encode(), day=3) for key in list(old)[4:]]
    added = [made_of(f"1{i}", os.urandom(8)) for i in range(8)]
    twins = [same(f"2{i}", f"{i:02d}", b"old %d" % i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            *(pool.submit(ArchiveWriter.open(url).commit, [r], seen=seen) for r in new + newest),
            *(pool.submit(ArchiveWriter.open(url).commit, [r]) for r in added),
        ]
        waiting = [r for part in (twins[:4], twins[4:]) for r in pool.submit(ArchiveWriter.open(url).refer, part).result()]
        assert sum(job.result() for job in jobs) >= 16
    rows = reread(archive)
    gone = {r.key for r in waiting}
    assert rows.keys() == {*old, *(r.key for r in added), *(r.key for r in twins)} - gone
    # Whoever came last, the version that changed last is there.
    assert all(rows[r.key].source_sha256 == r.source_sha256 for r in [*new[:4], *newest])
    for r in twins:
        assert r.key in gone or find(ArchiveWriter.open(url), r.key).source_sha256 == r.source_sha256
    vacuum(archive, retention_hours=0)
    report = verify(ArchiveWriter.open(url))
    assert report.is_clean and not report.orphans


def test_changes_that_race_keep_the_newest_and_every_stream(archive: ArchiveWriter) -> None:
    changing_races(archive.storage.url)


@pytest.mark.s3
def test_changes_that_race_on_s3_keep_the_newest_and_every_stream(s3_url: str) -> None:
    changing_races(ArchiveWriter.open_or_create(f"{s3_url}/archive").storage.url)


def test_an_archive_of_an_earlier_version_gets_the_new_columns(archive: ArchiveWriter) -> None:
    url = f"{archive.storage.url}/earlier"
    now = schema_with_features()
    earlier = pa.schema([field for field in now if field.name not in ("same_as", "original")], metadata=now.metadata)
    DeltaTable.create(url, schema=Schema.from_arrow(earlier))
    first, writer = made_of("a", b"1"), ArchiveWriter.open(url)
    writer.commit([first])
    assert not ArchiveWriter.open_or_create(url).refer([same("b", "a", b"1")])
    writer.commit([made_of("c", b"2")])
    table = DeltaTable(url).to_pyarrow_table(columns=["key", "same_as"]).sort_by("key")
    assert table.to_pydict() == {"key": ["a", "b", "c"], "same_as": [None, "a", None]}
    assert verify(ArchiveWriter.open_or_create(url)).is_clean
