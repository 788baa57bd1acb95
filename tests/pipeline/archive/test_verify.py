"""Whatever is wrong with an archive is told, with the photos that it hurts; what is not wrong is not."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from pipeline.archive.care.shard_check import DamageKind
from pipeline.archive.care.verify import VerifyReport, verify
from pipeline.archive.reader import find
from pipeline.archive.schema import parquet_options
from pipeline.archive.shard_reader import read_shard
from pipeline.archive.shard_writer import render_shard, write_shard
from pipeline.archive.versions import Comparer
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.container_check import check_container
from pipeline.entropy.container import Header, pack
from pipeline.errors import ArchiveDamagedError, CorruptStreamError, UnknownModelError
from pipeline.records import EncodedPhoto, Outcome, Photo
from tests.pipeline.archive.test_archive import folder, row

SPOILT = frozenset(f"{i:02d}.jpg" for i in range(6))


@pytest.fixture
def archive(tmp_path: Path) -> ArchiveWriter:
    """Two shards: one of two row groups with the keys `SPOILT`, one that no test touches."""
    made = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    made.commit([row(key, size=1_200_000) for key in sorted(SPOILT)])
    made.commit([row("sound.jpg")])
    return made


def spoilt(archive: ArchiveWriter) -> Path:
    (shard,) = (s for s in archive.shards() if s.least_key in SPOILT)
    return folder(archive) / shard.path


def verified(archive: ArchiveWriter) -> VerifyReport:
    return verify(ArchiveWriter.open(archive.storage.url))


def hurt(report: VerifyReport) -> set[str]:
    return {key for damage in report.damages for key in damage.keys}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as handle:
        handle.seek(offset)
        byte = handle.read(1)[0]
        handle.seek(offset)
        handle.write(bytes((byte ^ 1 << random.randrange(8),)))


def regions(path: Path) -> dict[str, int]:
    """Name of each part of a shard -> offset of a byte in its middle."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(size - 8)
        footer_bytes = int.from_bytes(handle.read(4), "little")
    found = {"magic": 1, "footer": size - 8 - footer_bytes // 2, "footer size": size - 8, "last magic": size - 1}
    footer_start = size - 8 - footer_bytes
    metadata = pq.ParquetFile(path).metadata
    last = metadata.row_group(metadata.num_row_groups - 1).column(metadata.num_columns - 1)
    found["page index"] = (last.data_page_offset + last.total_compressed_size + footer_start) // 2
    for i in range(metadata.num_row_groups):
        for j in range(metadata.num_columns):
            column = metadata.row_group(i).column(j)
            start = column.dictionary_page_offset or column.data_page_offset
            found[f"{i} {column.path_in_schema} header"] = start + 1
            found[f"{i} {column.path_in_schema} data"] = start + column.total_compressed_size - 1
    return found


def test_a_flipped_bit_in_any_part_of_a_shard_names_the_photos_it_hurts(archive: ArchiveWriter) -> None:
    path = spoilt(archive)
    parts = regions(path)
    assert len(parts) > 100
    groups = [
        {key for key in SPOILT if key <= "02.jpg"},
        {key for key in SPOILT if key > "02.jpg"},
    ]
    for name, offset in parts.items():
        before = path.read_bytes()
        flip(path, offset)
        report = verified(archive)
        assert {d.kind for d in report.damages} == {DamageKind.BYTES}, name
        assert {d.shard for d in report.damages} == {path.name}, name
        assert hurt(report) <= SPOILT, name
        group = groups[int(name[0])] if name[0].isdigit() else SPOILT
        if all(damage.all_keys_known for damage in report.damages):
            assert hurt(report) >= group, name
        else:
            (damage,) = report.damages
            assert min(damage.keys) <= min(group) <= max(group) <= max(damage.keys), name
        if name.endswith("data"):
            # What a page's checksum covers hurts its row group alone, and the others are read.
            assert hurt(report) <= group, name
            assert report.num_rows == len(SPOILT) + 1 - len(group), name
        path.write_bytes(before)
    assert verified(archive).is_clean


def test_any_one_byte_of_a_small_shard(tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit([row("a.jpg", size=40), row("b.jpg", size=40)])
    (shard,) = archive.shards()
    path = folder(archive) / shard.path
    data = path.read_bytes()
    offsets = random.sample(range(len(data)), 400)
    for offset in offsets:
        flip(path, offset)
        report = verify(archive)
        assert {d.shard for d in report.damages} == {shard.path}, offset
        assert hurt(report) == {"a.jpg", "b.jpg"}, offset
        path.write_bytes(data)


def test_a_truncated_or_empty_shard_is_told_with_the_keys_of_the_log(archive: ArchiveWriter) -> None:
    path = spoilt(archive)
    for size in (path.stat().st_size - 1, 1000, 0):
        os.truncate(path, size)
        (damage,) = verified(archive).damages
        assert (damage.kind, damage.keys, damage.all_keys_known) == (DamageKind.BYTES, ("00.jpg", "05.jpg"), False)


def test_a_missing_shard_is_told_with_the_keys_of_the_log(archive: ArchiveWriter) -> None:
    path = spoilt(archive)
    path.unlink()
    (damage,) = verified(archive).damages
    assert (damage.kind, damage.shard, damage.keys) == (DamageKind.MISSING, path.name, ("00.jpg", "05.jpg"))
    assert "6 rows" in damage.what
    with pytest.raises(ArchiveDamagedError, match="cannot be read"):
        ArchiveWriter.open(archive.storage.url).keys()


@pytest.mark.s3
def test_flips_and_holes_are_found_on_s3(s3_url: str) -> None:
    archive = ArchiveWriter.open_or_create(f"{s3_url}/archive")
    archive.commit([row("a"), row("b")])
    archive.commit([row("c")])
    first, second = sorted(archive.shards(), key=lambda s: s.least_key)
    data = bytearray(archive.storage.read(first.path))
    data[len(data) // 3] ^= 16
    archive.storage.write(first.path, bytes(data))
    archive.storage.delete(second.path)
    archive.storage.write("photos-orphan.parquet", b"orphan")
    report = verified(archive)
    assert {(d.kind, d.shard, d.keys) for d in report.damages} == {
        (DamageKind.BYTES, first.path, ("a", "b")),
        (DamageKind.MISSING, second.path, ("c",)),
    }
    assert [(orphan.path, orphan.size_bytes) for orphan in report.orphans] == [("photos-orphan.parquet", 6)]


def test_orphans_are_listed_and_are_no_damage(archive: ArchiveWriter) -> None:
    orphan = write_shard(archive.storage, [row("never committed")])
    (folder(archive) / "deep").mkdir()
    (folder(archive) / "deep" / "note.txt").write_text("four")
    report = verified(archive)
    assert report.is_clean
    assert {o.path: o.size_bytes for o in report.orphans} == {orphan.path: orphan.size_bytes, "deep/note.txt": 4}


def test_a_key_that_is_there_twice_is_named_with_both_shards(archive: ArchiveWriter) -> None:
    path = spoilt(archive)
    twin = write_shard(archive.storage, [row("03.jpg")])
    assert archive.log.swap([], [twin])
    (damage,) = verified(archive).damages
    assert (damage.kind, damage.keys) == (DamageKind.DUPLICATE, ("03.jpg",))
    assert {damage.shard, damage.what.split()[-1]} == {twin.path, path.name}


@pytest.mark.parametrize(
    ("lie", "what", "keys"),
    [
        ({"numRecords": 7}, "promises 7 rows, the shard holds 6", set()),
        ({"minValues": {"key": "02.jpg"}}, "'02.jpg' to '05.jpg'", {"00.jpg", "01.jpg"}),
        ({"maxValues": {"key": "99.jpg"}}, "'00.jpg' to '99.jpg'", set()),
        (None, "-1 rows", set()),
    ],
)
def test_statistics_that_lie_are_told(archive: ArchiveWriter, lie: dict[str, object] | None, what: str, keys: set[str]) -> None:
    (shard,) = (s for s in archive.shards() if s.least_key in SPOILT)
    told = {"numRecords": 6, "minValues": {"key": "00.jpg"}, "maxValues": {"key": "05.jpg"}, "nullCount": {"key": 0}}
    action = AddAction(
        path=shard.path,
        size=shard.size_bytes,
        partition_values={},
        modification_time=0,
        data_change=False,
        stats=json.dumps(told | lie if lie is not None else {}),
    )
    table = DeltaTable(archive.storage.url)
    table.create_write_transaction([action], "append", table.schema())
    report = verified(archive)
    assert {d.kind for d in report.damages} == {DamageKind.STATISTICS}
    assert {d.shard for d in report.damages} == {shard.path}
    assert what in report.damages[0].what
    assert hurt(report) == keys


def test_a_legacy_name_proves_nothing_and_a_shard_of_another_writer_is_read(archive: ArchiveWriter) -> None:
    path = spoilt(archive)
    table = pq.read_table(path)
    other = folder(archive) / f"photos-{'0' * 32}.parquet"
    pq.write_table(table, other, row_group_size=3, **parquet_options())
    written = replace_in_log(archive, path.name, other)
    assert verified(archive).is_clean
    other.write_bytes(other.read_bytes().replace(b"05.jpg", b"06.jpg"))  # in statistics and pages alike
    report = verified(archive)
    assert {d.shard for d in report.damages} == {written}


def test_a_date_that_no_calendar_has_is_damage(archive: ArchiveWriter) -> None:
    path = spoilt(archive)
    table = pq.read_table(path)
    dates = pa.array([2**62] * table.num_rows, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    other = folder(archive) / f"photos-{'0' * 32}.parquet"
    pq.write_table(table.set_column(table.column_names.index("modified_at"), "modified_at", dates), other, **parquet_options())
    replace_in_log(archive, path.name, other)
    with pytest.raises(ArchiveDamagedError):
        find(archive, "05.jpg")
    assert hurt(verified(archive)) == SPOILT


def replace_in_log(archive: ArchiveWriter, old: str, new: Path) -> str:
    """Let the file `new` stand in the log for the shard `old`."""
    made, _ = render_shard(read_shard(archive.storage, old))
    archive.log.swap([old], [replace(made, path=new.name, size_bytes=new.stat().st_size)])
    return new.name


def test_rows_that_contradict_themselves_are_named(archive: ArchiveWriter) -> None:
    archive.commit(
        [
            replace(row("kept"), outcome=Outcome.KEPT, source_sha256="0" * 64),
            replace(row("silent", outcome=Outcome.FAILED), reason=None),
            replace(row("empty"), image=None),
        ]
    )
    report = verified(archive)
    assert {d.keys[0]: d.what for d in report.damages} == {
        "kept": "the kept file is not the one that was read (SHA-256)",
        "silent": "failed without a reason",
        "empty": "outcome encoded does not agree with no image",
    }


def test_headers_of_streams_are_held_against_their_rows(photo_files: dict[str, bytes]) -> None:
    header = Header(codec="ditic-small", arithmetic="exact-1", model="ab" * 8, quality=1, width=40, height=20, checksum=1)
    neural = replace(row("n"), codec="ditic-small", model="ab" * 8, image=pack(header, b"payload"))
    check_container(neural)
    for wrong in ({"width": 41}, {"model": "cd" * 8}, {"codec": "ditic"}, {"image": b"PA"}, {"image": b"GIF89a"}):
        with pytest.raises(CorruptStreamError):
            check_container(replace(neural, **wrong))
    with pytest.raises(UnknownModelError, match="update"):
        check_container(replace(neural, codec="h999"))
    with pytest.raises(CorruptStreamError, match="webp"):
        check_container(replace(row("w"), image=photo_files["sunset.png"]))


def test_a_share_of_the_streams_is_decoded(archive: ArchiveWriter) -> None:
    archive.commit([row(f"many/{i:03d}", size=10) for i in range(400)])
    decoded: list[str] = []
    report = verify(archive, lambda r: decoded.append(r.key), share=0.25)
    assert report.num_decoded == len(decoded)
    assert 50 < len(decoded) < 160
    assert verify(archive, lambda _: None, share=0.0).num_decoded == 0
    assert verify(archive, lambda _: None).num_decoded == 407


def test_a_source_is_compared_by_size_and_time_or_by_checksum(archive: ArchiveWriter) -> None:
    at = datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC)

    def encoded(key: str) -> EncodedPhoto:
        return replace(row(f"s/{key}"), modified_at=at, source_sha256=f"sum of {key}")

    archive.commit([encoded(key) for key in ("same", "longer", "later", "rewritten", "gone")])
    photo = Photo(key="", uri="", size_bytes=1000, modified_at=at)
    source = [
        replace(photo, key="s/same"),
        replace(photo, key="s/longer", size_bytes=1001),
        replace(photo, key="s/later", modified_at=at.replace(year=2025)),
        replace(photo, key="s/rewritten"),
        replace(photo, key="s/new"),
    ]
    comparer = Comparer(source)
    verify(archive, on_row=comparer.see)
    found = comparer.result()
    assert (found.num_same, found.missing) == (2, ("s/new",))
    assert {change.key: change.what.split()[0] for change in found.changed} == {"s/longer": "1000", "s/later": "changed"}
    assert set(found.extra) == {"s/gone", "sound.jpg", *SPOILT}
    assert not found.is_complete

    sums = {"s/rewritten": "another sum"}
    comparer = Comparer(source, lambda p: sums.get(p.key, f"sum of {p.key[2:]}"))
    verify(archive, on_row=comparer.see)
    # Time alone changes nothing where the bytes are known to be the same.
    assert [change.key for change in comparer.result().changed] == ["s/longer", "s/rewritten"]


def test_photos_whose_rows_cannot_be_read_are_missing(archive: ArchiveWriter) -> None:
    spoilt(archive).unlink()
    comparer = Comparer([Photo(key=key, uri="", size_bytes=1000) for key in (*SPOILT, "sound.jpg")])
    verify(archive, on_row=comparer.see)
    assert set(comparer.result().missing) == SPOILT
