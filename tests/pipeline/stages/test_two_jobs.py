"""Two jobs at once on one archive, each a process with a Ray of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import verify
from pipeline.archive.reader import Archive
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.container_check import check_container
from pipeline.decode.restore import decode_row
from pipeline.sources.folder import list_photos
from pipeline.storage.base import Storage
from tests.pipeline.stages.test_retry_repair import archived, photo, rows_of

ENCODE = "import sys; from jobs.cli import main; sys.argv[0] = 'photoark'; main()"


def two_jobs(first: Storage, second: Storage, archive: str, folder: Path) -> None:
    """Photos of their own, photos that both have, and some of these that the archive holds as they were before."""
    for i in range(12):
        for source in (first, second):
            source.write(f"both/{i:02d}.jpg", photo(i))
    job = archived(first.url, archive, shard_photos=5)
    old = rows_of(job)
    for source, name in ((first, "a"), (second, "b")):
        for i in range(12):
            source.write(f"{name}{i:02d}.jpg", photo(100 * ord(name) + i))
            source.write(f"both/{i + 6:02d}.jpg", photo(1000 + i))
    jobs: list[subprocess.Popen[bytes]] = []
    for source in (first, second):
        with (folder / f"{len(jobs)}.txt").open("w") as log:
            command = [sys.executable, "-c", ENCODE, "encode", source.url, archive, "--codec", "webp", "--dedupe", "--json"]
            environment = os.environ | {"PHOTOARK_COMMIT_INTERVAL_S": "0.001"}
            jobs.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    assert [job.wait(timeout=240) for job in jobs] == [0, 0], [path.read_text()[-2000:] for path in folder.glob("?.txt")]
    summaries = [json.loads((folder / f"{i}.txt").read_text().splitlines()[-1]) for i in range(2)]
    assert all(summary["num_failed"] == 0 for summary in summaries)
    assert all(summary["num_new"] + summary["num_changed"] >= 12 for summary in summaries)

    rows = rows_of(job)  # each key once
    assert rows.keys() == {photo.key for source in (first, second) for photo in list_photos(source.url)}
    sizes = {p.key: p.size_bytes for source in (first, second) for p in list_photos(source.url)}
    assert {key: row.source_bytes for key, row in rows.items()} == sizes
    assert all(rows[f"both/{i:02d}.jpg"].image == old[f"both/{i:02d}.jpg"].image for i in range(6))
    assert all(rows[f"both/{i:02d}.jpg"].source_sha256 != old[f"both/{i:02d}.jpg"].source_sha256 for i in range(6, 12))
    vacuum(ArchiveWriter.open(archive), retention_hours=0)
    report = verify(Archive.open(archive), decode_row, check=check_container)
    assert (report.is_clean, report.orphans, report.num_rows) == (True, (), 42)


def test_two_jobs_at_once(tmp_path: Path) -> None:
    two_jobs(Storage(tmp_path / "first"), Storage(tmp_path / "second"), str(tmp_path / "archive"), tmp_path)


@pytest.mark.s3
def test_two_jobs_at_once_on_s3(s3_url: str, tmp_path: Path) -> None:
    two_jobs(Storage(f"{s3_url}/first"), Storage(f"{s3_url}/second"), f"{s3_url}/archive", tmp_path)
