"""Machines whose clocks are a day off: nothing that is needed is taken for old."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.archive.care.optimize import optimize
from pipeline.archive.care.vacuum import vacuum
from pipeline.archive.care.verify import verify
from pipeline.archive.shard_writer import write_shard
from pipeline.archive.writer import ArchiveWriter
from tests.chaos.test_processes import photoark
from tests.pipeline.archive.test_archive import row
from tests.pipeline.archive.test_maintenance import age, filled

pytestmark = pytest.mark.chaos
DAY_S = 86_400
# Before libc: Python's clock and Rust's. Files keep the times that the kernel gives them.
CLOCK = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    if (!failed && id == CLOCK_REALTIME) at->tv_sec += atol(getenv("SKEW_S"));
    return failed;
}
"""
# What a driver does with the archive, all of it in one process.
COMMIT = """
import sys
from pipeline.archive.writer import ArchiveWriter
from tests.pipeline.archive.test_archive import row

archive = ArchiveWriter.open(sys.argv[1])
archive.commit([row("new")])
archive.put([row("b")])
"""


def wrong_clock(folder: Path, skew_s: int) -> dict[str, str]:
    """Environment of a process whose clock is off."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make another clock with")
    (folder / "clock.c").write_text(CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c"], check=True)
    return {"LD_PRELOAD": str(folder / "clock.so"), "SKEW_S": str(skew_s)}


def vacuumed(archive: ArchiveWriter, folder: Path, skew_s: int, retention_hours: int) -> set[str]:
    command = ("vacuum", archive.storage.url, "--retention-hours", retention_hours, "--json")
    result = photoark(*command, **wrong_clock(folder, skew_s))
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1])["paths"])


@pytest.mark.parametrize(("skew_s", "retention_hours"), [(DAY_S, 2), (-DAY_S, 30)])
def test_vacuum_goes_by_the_clock_that_gave_the_files_their_times(skew_s: int, retention_hours: int, tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    filled(archive)
    optimize(archive)  # what it replaced, readers of the version before still want
    old = write_shard(archive.storage, [row("never committed")])
    write_shard(archive.storage, [row("about to be committed by another job")])
    age(tmp_path / "archive" / old.path, hours=retention_hours + 1)
    before = {file.path for file in archive.storage.list()}
    assert vacuumed(archive, tmp_path, skew_s, retention_hours) == {old.path}
    assert {file.path for file in archive.storage.list()} == before - {old.path}


@pytest.mark.s3
def test_vacuum_goes_by_the_clock_of_s3(s3_url: str, tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(f"{s3_url}/archive")
    filled(archive, num_shards=2)
    optimize(archive)
    write_shard(archive.storage, [row("about to be committed by another job")])
    before = {file.path for file in archive.storage.list()}
    assert vacuumed(archive, tmp_path, DAY_S, 2) == set()
    assert {file.path for file in archive.storage.list()} == before


@pytest.mark.parametrize("skew_s", [DAY_S, -DAY_S])
def test_what_a_driver_with_a_wrong_clock_replaced_stays_as_long_as_it_should(skew_s: int, tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(str(tmp_path / "archive"))
    archive.commit([row("a"), row("b")])
    (shard,) = archive.shards()
    command = [sys.executable, "-c", COMMIT, archive.storage.url]
    subprocess.run(command, env={**os.environ, **wrong_clock(tmp_path, skew_s)}, check=True, timeout=120)
    age(tmp_path / "archive" / shard.path, hours=3)
    # Readers of the version before, a long restore say, still need it.
    assert vacuum(archive, retention_hours=2).paths == ()
    assert ArchiveWriter.open(archive.storage.url).keys() == {"a", "b", "new"}
    assert verify(ArchiveWriter.open(archive.storage.url)).is_clean
    assert vacuum(archive, retention_hours=0).paths == (shard.path,)
