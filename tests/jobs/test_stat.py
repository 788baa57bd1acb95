"""What `stat` and `ls` say of the bytes that an archive stores."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from jobs.phrases import shrinkage
from pipeline.archive.reader import read_rows
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.points import parse_ladder
from pipeline.encode.read import read_block
from pipeline.encode.settings import EncodeSettings
from pipeline.encode.worker import EncodeWorker
from pipeline.on_ray.work import split_work
from pipeline.records import KeepOriginal, encoded_from_table, photos_to_table
from pipeline.sources.folder import list_photos
from tests.pipeline.stages.test_retry_repair import photo
from tests.support.command_line import photoark


@pytest.mark.parametrize("ladder", ["webp:30", "jxl:100"])
@pytest.mark.parametrize("keep", [KeepOriginal.ALWAYS, KeepOriginal.KEPT])
def test_originals_count_as_stored(tmp_path: Path, ladder: str, keep: KeepOriginal) -> None:
    source, archive = tmp_path / "photos", tmp_path / "archive"
    source.mkdir()
    (source / "a.jpg").write_bytes(photo(0))
    with Image.open(io.BytesIO(photo(1))) as image:
        image.save(source / "b.bmp")
        image.save(source / "c.png")
    (source / "bad.jpg").write_bytes(photo(2)[:300])
    worker = EncodeWorker(EncodeSettings(ladder=parse_ladder(ladder), keep_original=keep))
    rows, _ = split_work(worker(read_block(photos_to_table(list_photos(str(source))))))
    ArchiveWriter.open_or_create(str(archive)).commit(encoded_from_table(rows))

    held = {
        row.key: (len(row.image or b""), len(row.original or b""))
        for row in read_rows(ArchiveWriter.open(str(archive)), columns=["image", "original"])
    }
    assert (held["a.jpg"][1] > 0) == (keep is KeepOriginal.ALWAYS and ladder == "webp:30")
    assert (held["c.png"][1] > 0) == (keep is KeepOriginal.ALWAYS)
    totals = json.loads(photoark("stat", archive, "--json").stdout)
    stored = sum(map(sum, held.values()))
    assert totals["stream_bytes"] + totals["original_bytes"] == stored
    assert shrinkage(totals["stored_bytes"], stored) in photoark("stat", archive).stdout
    listed = [json.loads(line) for line in photoark("ls", archive, "--json").stdout.splitlines()]
    assert {row["key"]: (row["stream_bytes"], row["original_bytes"]) for row in listed} == held
    assert f"{sum(held['c.png']):,} c.png" in photoark("ls", archive, "-l").stdout
