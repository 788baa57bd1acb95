"""Every entry of a source is taken or counted: archives are known by what they are, links are followed once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline.archive.writer import ArchiveWriter
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.records import SkipReason
from pipeline.sources.folder import list_source
from pipeline.sources.selection import ALL, Selection
from pipeline.storage.base import Storage
from tests.cases.odd_folders import keys_of, skips_of, write_photos


def test_a_folder_that_only_ends_like_a_log_is_taken(tmp_path: Path) -> None:
    keys = ["a.png", "nile.png", "nile_delta_log/1.png", "nile_trip/2.png", "x/_delta_log/3.png", "x/photos-1.parquet"]
    write_photos(tmp_path, *keys)
    listing = list_source(str(tmp_path))
    assert keys_of(listing) == sorted(keys)
    assert listing.skipped == ()


def test_a_table_of_another_program_is_taken(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", pa.table({"x": [1, 2]}))
    write_photos(tmp_path, "a.png", *(f"table/photos-{digits}.parquet" for digits in ("0" * 32, "a" * 64)))
    keys = keys_of(list_source(str(tmp_path)))
    assert keys == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("where", [".", "inside/archive"])
def test_an_archive_may_be_the_source_or_lie_in_it(where: str, tmp_path: Path) -> None:
    write_photos(tmp_path, "1.png", "b/2.png")
    job = EncodeJob(source=str(tmp_path), archive=str(tmp_path / where), codec="webp")
    assert encode(job).num_encoded == 2
    write_photos(tmp_path, "3.png", f"{where}/beside.png")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    summary = encode(job)
    assert (summary.num_photos, summary.num_encoded, summary.num_skipped, summary.num_gone) == (4, 2, 2, 0)
    assert len(ArchiveWriter.open(job.archive).keys()) == 4
    (skipped,) = summary.skipped
    assert (skipped.reason, skipped.num_entries) == (SkipReason.ARCHIVE, len(found) - 4)
    # A log too damaged to say whose it is lies beside shards whose names do.
    for commit in (tmp_path / where / "_delta_log").glob("*.json"):
        commit.write_text("?")
    assert len(list_source(job.source).photos) == 4


@pytest.mark.usefixtures("ray_session")
def test_no_new_archive_is_made_around_its_source(tmp_path: Path) -> None:
    from pipeline.errors import SettingError

    write_photos(tmp_path, "a/1.png")
    with pytest.raises(SettingError, match="lies in"):
        encode(EncodeJob(source=str(tmp_path / "a"), archive=str(tmp_path), codec="webp"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_linked_folders_are_followed_once_and_loops_are_noticed(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    write_photos(source, "a.png", "real/b.png")
    write_photos(other, "in.png", "deep/er.png")
    links = {
        "album": other,
        "real/same": source / "real",  # listed where it is
        "real/up": source,
        "real/whole": tmp_path,  # it holds the source
        "z/album": other,  # reached by a shorter way
        "z/deep": other / "deep",
    }
    (source / "z").mkdir()
    for name, target in links.items():
        (source / name).symlink_to(target, target_is_directory=True)
    (other / "back").symlink_to(source)
    (source / "file.png").symlink_to(other / "in.png")
    for _ in range(2):
        listing = list_source(str(source))
        assert keys_of(listing) == ["a.png", "album/deep/er.png", "album/in.png", "file.png", "real/b.png"]
        assert skips_of(listing) == {"listed_already": 6}
    assert listing.skipped[0].first[0].startswith("real/same: a link to ")


def test_a_link_in_a_folder_that_is_excluded_does_not_hide_another(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_photos(tmp_path / "other", "in.png")
    for folder in (".Trash-1000", "b", "old"):
        (source / folder).mkdir(parents=True)
        (source / folder / "album").symlink_to(tmp_path / "other")
    listing = list_source(str(source), Selection(exclude=("b/*",)))
    assert keys_of(listing) == ["old/album/in.png"]
    assert skips_of(listing) == {"excluded": 1, "excluded_by_default": 1}


def test_a_link_into_an_excluded_folder_is_followed(tmp_path: Path) -> None:
    write_photos(tmp_path, "@eaDir/real/x.png", "@eaDir/real/deep/y.png", "raw/z.png", "raw/w.png")
    (tmp_path / "@eaDir" / "real" / "up").symlink_to(tmp_path / "@eaDir")
    for name, target in {"album": "@eaDir/real", "other": "@eaDir/real/deep", "whole": "@eaDir", "cooked": "raw"}.items():
        (tmp_path / name).symlink_to(target)
    listing = list_source(str(tmp_path), Selection(exclude=("raw/*",)))
    assert keys_of(listing) == ["album/deep/y.png", "album/x.png", "cooked/w.png", "cooked/z.png"]
    assert skips_of(listing)["excluded"] == 2
    listing = list_source(str(tmp_path))
    assert keys_of(listing) == ["album/deep/y.png", "album/x.png", "raw/w.png", "raw/z.png"]
    (outer := tmp_path.with_name("outer")).mkdir()
    (outer / "album").symlink_to(tmp_path)
    (outer / "z").symlink_to(tmp_path / "@eaDir" / "real" / "deep")
    assert "z/y.png" in keys_of(list_source(str(outer)))


def test_hidden_names_are_taken_and_what_is_excluded_by_default_is_counted(tmp_path: Path) -> None:
    taken = [".IMG_1.png", "...One more time.png", ".trash/x.png", "a/.hidden/y.png", "recycle/z.png"]
    left = ["@eaDir/a.png/SYNO_M.png", "a/#recycle/b.png", ".thumbnails/c.png", "$Recycle.Bin/d.png", ".Trash-1000/files/e.png"]
    write_photos(tmp_path, *taken, *left)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a/Thumbs.db").write_bytes(b"x")
    listing = list_source(str(tmp_path))
    assert keys_of(listing) == sorted(taken)
    assert skips_of(listing) == {"excluded_by_default": len(left) + 2}
    assert len(list_source(str(tmp_path), ALL).photos) == len(taken) + len(left) + 2


def test_patterns_choose_by_the_whole_key(tmp_path: Path) -> None:
    write_photos(tmp_path, "2023/a.png", "2024/b.png", "2024/raw/c.png", "d.png")
    listing = list_source(str(tmp_path), Selection(include=("2024/*", "d.*"), exclude=("*/raw/*",)))
    assert keys_of(listing) == ["2024/b.png", "d.png"]
    assert skips_of(listing) == {"excluded": 1, "not_included": 1}
    assert (listing.lacks("2024/gone.png"), listing.lacks("2023/gone.png")) == (True, False)


@pytest.mark.s3
def test_archives_and_markers_of_folders_in_a_bucket(s3_url: str, tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png")
    storage, data = Storage(f"{s3_url}/root"), (tmp_path / "a.png").read_bytes()
    ArchiveWriter.open_or_create(f"{s3_url}/root/archive")
    for key in ("a.png", "nile_delta_log/1.png", "nile.png", "archive/beside.png", "@eaDir/t.png"):
        storage.write(key, data)
    from pipeline.storage import s3

    s3.put(s3_url.removeprefix("s3://").partition("/")[0], _key_of(s3_url, "root/marker/"), b"")
    listing = list_source(storage.url)
    assert keys_of(listing) == ["a.png", "archive/beside.png", "nile.png", "nile_delta_log/1.png"]
    assert skips_of(listing) == {"archive": 1, "excluded_by_default": 1, "folder_marker": 1}


def _key_of(url: str, key: str) -> str:
    prefix = url.removeprefix("s3://").partition("/")[2]
    return f"{prefix}/{key}" if prefix else key


def test_the_names_of_what_is_left_out_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "@eaDir").mkdir()
    for i in range(100):
        (tmp_path / "@eaDir" / f"{i}.png").write_bytes(b"x")
    (skipped,) = list_source(str(tmp_path)).skipped
    assert (skipped.num_entries, len(skipped.first)) == (100, 20)
    shutil.rmtree(tmp_path / "@eaDir")
    os.mkfifo(tmp_path / "pipe")
    assert skips_of(list_source(str(tmp_path))) == {"special_file": 1}
