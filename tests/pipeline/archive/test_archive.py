"""The archive: what is committed is there once, readable by others, and damage is told."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import find, list_fragments, read_rows
from pipeline.archive.shard_reader import read_shard
from pipeline.archive.summary import summarise
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError, ArchiveNotFoundError, CorruptStreamError, KeyNotFoundError
from pipeline.patterns import KeyPatterns
from pipeline.records import ARCHIVE_SCHEMA, EncodedPhoto, Outcome


def row(key: str, *, size: int = 500, outcome: Outcome = Outcome.ENCODED) -> EncodedPhoto:
    """A row of random bytes."""
    failed = outcome is Outcome.FAILED
    return EncodedPhoto(
        key=key,
        image=None if failed else os.urandom(size),
        codec=None if failed else "webp",
        model=None,
        outcome=outcome,
        reason="the file is empty" if failed else None,
        source_uri=f"/photos/{key}",
        source_bytes=1000,
        width=None if failed else 40,
        height=None if failed else 20,
        bpp=None if failed else size * 8 / 800,
        exif=b"II*\0" if not failed else None,
        encoded_at=datetime.now(UTC),
    )


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveWriter:
    return ArchiveWriter.open_or_create(str(tmp_path / "archive"))


def folder(archive: ArchiveWriter) -> Path:
    return Path(archive.storage.url)


def test_rows_come_back_as_they_were(archive: ArchiveWriter) -> None:
    rows = [row(f"{i:02d}.jpg") for i in range(5)] + [row("z.jpg", outcome=Outcome.FAILED)]
    assert archive.commit(list(reversed(rows))) == 6
    reopened = ArchiveWriter.open(archive.storage.url)
    assert list(read_rows(reopened)) == rows
    assert reopened.keys() == {r.key for r in rows}
    assert find(reopened, "03.jpg") == rows[3]
    with pytest.raises(KeyNotFoundError, match=r"absent\.jpg"):
        find(reopened, "absent.jpg")


def test_a_key_is_committed_once(archive: ArchiveWriter) -> None:
    first = row("a")
    assert archive.commit([first, row("b")]) == 2
    assert archive.commit([row("a"), row("b")]) == 0
    assert ArchiveWriter.open(archive.storage.url).commit([row("a"), row("c"), row("c")]) == 1
    assert find(ArchiveWriter.open(archive.storage.url), "a") == first
    assert verify(ArchiveWriter.open(archive.storage.url)).num_rows == 3


def race(url: str) -> None:
    """Four writers, each with keys that the next one has too."""
    writers = [ArchiveWriter.open(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda i: writers[i].commit([row(f"{j:02d}") for j in range(5 * i, 5 * i + 10)]), range(4)))
    report = verify(ArchiveWriter.open(url))
    assert sum(counts) == report.num_rows == 25
    assert report.is_clean


def test_writers_that_race_never_duplicate_a_key(archive: ArchiveWriter) -> None:
    race(archive.storage.url)


@pytest.mark.s3
def test_writers_that_race_on_s3_never_duplicate_a_key(s3_url: str) -> None:
    race(ArchiveWriter.open_or_create(f"{s3_url}/archive").storage.url)


def versions(url: str) -> list[list[str]]:
    """Keys that a reader of each version of the log sees, the oldest first."""
    newest = DeltaTable(url).version()
    tables = (DeltaTable(url, version=i).to_pyarrow_table(columns=["key"]) for i in range(newest + 1))
    return [sorted(table["key"].to_pylist()) for table in tables]


def test_rows_that_are_put_take_the_place_of_others_in_one_commit(archive: ArchiveWriter) -> None:
    archive.commit([row("a", outcome=Outcome.FAILED), row("b")])
    archive.commit([row("c"), row("d", outcome=Outcome.FAILED)])
    b, c = find(archive, "b"), find(archive, "c")
    fresh = [row("a"), row("d"), row("e")]
    archive.put(fresh)
    reopened = ArchiveWriter.open(archive.storage.url)
    assert {r.key: r for r in read_rows(reopened)} == {r.key: r for r in (*fresh, b, c)}
    assert archive.keys() == reopened.keys() == set("abcde")
    assert versions(archive.storage.url) == [[], ["a", "b"], list("abcd"), list("abcde")]
    archive.put(fresh)  # once more is the same files
    assert ArchiveWriter.open(archive.storage.url).keys() == set("abcde")
    assert verify(ArchiveWriter.open(archive.storage.url)).is_clean


def test_rows_leave_with_a_shard_that_is_dropped(archive: ArchiveWriter) -> None:
    archive.commit([row("a"), row("b")])
    archive.commit([row("c")])
    (shard,) = (s for s in archive.shards() if s.least_key == "a")
    (folder(archive) / shard.path).unlink()
    archive.put([row("a")], drop=[shard.path])
    assert archive.keys() == ArchiveWriter.open(archive.storage.url).keys() == {"a", "c"}
    archive.commit([row("b")])
    assert sorted(r.key for r in read_rows(ArchiveWriter.open(archive.storage.url))) == ["a", "b", "c"]


def putting_races(url: str) -> None:
    """Two that put and two that commit the same keys at once."""
    ArchiveWriter.open(url).commit([row(f"{i:02d}", outcome=Outcome.FAILED) for i in range(10)])
    writers = [ArchiveWriter.open(url) for _ in range(4)]
    rows = [row(f"{i:02d}") for i in range(5, 15)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: writers[i].put(rows) if i % 2 else writers[i].commit(rows), range(4)))
    reopened = ArchiveWriter.open(url)
    assert sorted(r.key for r in read_rows(reopened)) == [f"{i:02d}" for i in range(15)]
    assert {r.key for r in read_rows(reopened) if r.outcome is Outcome.FAILED} == {f"{i:02d}" for i in range(5)}
    assert verify(reopened).is_clean


def test_putting_and_committing_at_once_keep_each_key_once(archive: ArchiveWriter) -> None:
    putting_races(archive.storage.url)


@pytest.mark.s3
def test_putting_and_committing_at_once_on_s3_keep_each_key_once(s3_url: str) -> None:
    putting_races(ArchiveWriter.open_or_create(f"{s3_url}/archive").storage.url)


def test_a_shard_is_named_after_its_bytes(archive: ArchiveWriter) -> None:
    archive.commit([row("a"), row("b")])
    (shard,) = archive.shards()
    data = (folder(archive) / shard.path).read_bytes()
    assert shard.path == f"photos-{hashlib.sha256(data).hexdigest()}.parquet"
    assert [r.key for r in read_shard(archive.storage, shard.path)] == ["a", "b"]
    (folder(archive) / shard.path).write_bytes(data[:3] + b"2" + data[4:])  # the magic: no page checksum covers it
    with pytest.raises(ArchiveDamagedError, match="SHA-256"):
        read_shard(archive.storage, shard.path)


def test_a_shard_without_a_commit_is_not_there(archive: ArchiveWriter) -> None:
    from pipeline.archive.shard_writer import write_shard

    archive.commit([row("a")])
    write_shard(archive.storage, [row("b")])
    assert ArchiveWriter.open(archive.storage.url).keys() == {"a"}
    assert verify(ArchiveWriter.open(archive.storage.url)).is_clean


def test_one_photo_is_one_small_row_group_and_its_bytes_lie_in_one_piece(archive: ArchiveWriter) -> None:
    rows = [row(f"{i:02d}", size=700_000) for i in range(20)]
    archive.commit(rows)
    (shard,) = archive.shards()
    file = pq.ParquetFile(folder(archive) / shard.path)
    sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    assert len(sizes) == 4
    assert max(sizes) < 4.5e6
    names = {file.metadata.row_group(0).column(i).path_in_schema: i for i in range(file.metadata.num_columns)}
    image = file.metadata.row_group(0).column(names["image.bytes"])
    assert image.compression == "UNCOMPRESSED"
    assert "RLE_DICTIONARY" not in image.encodings
    data = (folder(archive) / shard.path).read_bytes()
    assert all(data.count(r.image) == 1 for r in rows if r.image)
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert [f.path for f in list_fragments(archive, KeyPatterns(include=("07",)))] == [shard.path]


def test_others_can_read_it(archive: ArchiveWriter) -> None:
    archive.commit([row("a"), row("b", outcome=Outcome.FAILED)])
    table = DeltaTable(archive.storage.url).to_pyarrow_table()
    assert table.column_names == ARCHIVE_SCHEMA.names
    assert sorted(table["key"].to_pylist()) == ["a", "b"]
    assert pq.read_table(folder(archive) / archive.shards()[0].path).num_rows == 2


def test_patterns_and_totals(archive: ArchiveWriter) -> None:
    archive.commit([row("2023/a.jpg"), row("2024/a.jpg"), row("2024/b.png")])
    archive.commit([row("2024/c.jpg", outcome=Outcome.FAILED)])
    assert [r.key for r in read_rows(archive, KeyPatterns(include=("2024/*.jpg",)), ["width"])] == ["2024/a.jpg", "2024/c.jpg"]
    several = KeyPatterns(include=("2023/*", "*.png", "*c.jpg"), exclude=("*/c*", "2025/*"))
    assert [r.key for r in read_rows(archive, several)] == ["2023/a.jpg", "2024/b.png"]
    assert [r.key for r in read_rows(archive, KeyPatterns(exclude=("2024/[ab]*",)))] == ["2023/a.jpg", "2024/c.jpg"]
    totals = summarise(ArchiveWriter.open(archive.storage.url))
    assert (totals.num_photos, totals.num_shards, totals.source_bytes) == (4, 2, 4000)
    assert totals.outcomes == {"encoded": 3, "failed": 1}
    assert totals.stream_bytes == 1500


def test_shards_that_patterns_leave_out_are_not_read(archive: ArchiveWriter) -> None:
    archive.commit([row("2023/a.jpg"), row("2023/b.jpg")])
    archive.commit([row("2024/a.jpg"), row("2025/a.jpg")])
    unread = next(shard for shard in archive.shards() if shard.least_key == "2023/a.jpg")
    (folder(archive) / unread.path).unlink()
    for patterns in (
        KeyPatterns(include=("2024/*", "2025/*")),
        KeyPatterns(exclude=("2023/*",)),
        KeyPatterns(include=("*.jpg",), exclude=("2023*",)),
    ):
        assert [r.key for r in read_rows(archive, patterns)] == ["2024/a.jpg", "2025/a.jpg"]
    for patterns in (KeyPatterns(include=("2024/*", "*b.jpg")), KeyPatterns(exclude=("2023/a*",))):
        with pytest.raises(ArchiveDamagedError):
            list(read_rows(archive, patterns))


def damaged(archive: ArchiveWriter, change: Callable[[Path], object]) -> list[str]:
    archive.commit([row("a"), row("b")])
    (shard,) = archive.shards()
    change(folder(archive) / shard.path)
    report = verify(ArchiveWriter.open(archive.storage.url))
    assert {d.shard for d in report.damages} == {shard.path}
    return [d.what for d in report.damages]


def test_a_flipped_byte_is_found_with_its_shard(archive: ArchiveWriter) -> None:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[data.find(b"II*\0")] ^= 1
        path.write_bytes(data)

    (what,) = damaged(archive, flip)
    assert "CRC" in what or "checksum" in what
    with pytest.raises(ArchiveDamagedError, match="damaged"):
        find(ArchiveWriter.open(archive.storage.url), "a")


def test_keys_of_kilobytes_are_found(archive: ArchiveWriter) -> None:
    rows = [row("a"), row("k" * 5000), row("k" * 9000), row("z")]
    archive.commit(rows)
    assert [find(ArchiveWriter.open(archive.storage.url), r.key) for r in rows] == rows
    assert [r.key for r in read_rows(archive, KeyPatterns(include=("k*",)))] == [r.key for r in rows[1:3]]
    assert verify(ArchiveWriter.open(archive.storage.url)).is_clean


def test_a_missing_shard_is_found(archive: ArchiveWriter) -> None:
    (what,) = damaged(archive, Path.unlink)
    assert "cannot be read" in what
    assert "'a' to 'b'" in what


def test_a_truncated_shard_is_found(archive: ArchiveWriter) -> None:
    (what,) = damaged(archive, lambda path: path.write_bytes(path.read_bytes()[:-100]))
    assert "damaged" in what


def test_what_does_not_decode_or_does_not_match_is_named(archive: ArchiveWriter) -> None:
    kept = row("kept", outcome=Outcome.KEPT)
    object.__setattr__(kept, "source_sha256", "0" * 64)
    archive.commit([row("good"), row("bad"), kept])

    def decode(encoded: EncodedPhoto) -> None:
        if encoded.key == "bad":
            raise CorruptStreamError("the symbols do not match")

    report = verify(archive, decode)
    assert report.num_decoded == 2
    assert {d.keys: d.what.split()[1] for d in report.damages} == {("bad",): "symbols", ("kept",): "kept"}


def test_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveNotFoundError, match="photoark encode"):
        ArchiveWriter.open(str(tmp_path))
