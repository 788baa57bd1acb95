"""Archives from anywhere: whatever a shard or a log holds, reading it gives photos or typed errors, and writes nowhere else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.archive.care.verify import verify
from pipeline.archive.footer import column_bounds
from pipeline.archive.shard_reader import check_num_rows
from pipeline.archive.shard_writer import render_shard
from pipeline.archive.writer import ArchiveWriter
from pipeline.errors import ArchiveDamagedError, ArchiveError
from tests.hostile.mutation import mutated
from tests.pipeline.archive.test_archive import row

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_mutated_shards_are_photos_or_typed_errors(tmp_path: Path, soak: bool) -> None:
    count = 2000 if soak else 200
    command = [sys.executable, "-m", "tests.hostile.parquet_fuzz", str(tmp_path), "20261", str(count)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["untyped"] == []
    assert found["strays"] == []
    assert found["written"] <= 4
    ends = found["ends"]
    assert ends["verify: damaged"] + ends["verify: clean"] == count
    for way in ("restore", "restore kept", "decode", "decode pattern", "stat"):
        assert ends[f"{way}: ArchiveDamagedError"] > count / 20
        # Half of the damage is none to that way, and the photos come back.
        assert sum(count for end, count in ends.items() if end.startswith(f"{way}: ")) == count / 5


def test_statistics_are_those_that_the_library_reads() -> None:
    _, data = render_shard([row(f"é{i:03d}.jpg", size=200_000) for i in range(50)])
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    bounds = column_bounds(data)
    assert len(bounds) == metadata.num_row_groups > 1
    for i, found in enumerate(bounds):
        assert found["key"][0] < found["key"][1]
        for j in range(metadata.num_columns):
            column = metadata.row_group(i).column(j)
            expected = (column.statistics.min, column.statistics.max) if column.is_stats_set else None
            assert found.get(column.path_in_schema) == expected


def test_statistics_out_of_noise_are_an_error() -> None:
    _, data = render_shard([row("a.jpg")])
    for damaged in (b"", b"PAR1", data[:-9], data[:-8] + b"\xff\xff\xff\x7fPAR1", data[: len(data) // 2] + data[-8:]):
        with pytest.raises(ArchiveDamagedError):
            column_bounds(damaged)
    nested = b"\x1c" * 5000  # structures in structures
    with pytest.raises(ArchiveDamagedError, match="without end"):
        column_bounds(b"PAR1" + nested + len(nested).to_bytes(4, "little") + b"PAR1")


def test_a_few_bytes_that_claim_a_billion_rows_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"key": pa.nulls(1_500_000, pa.string())}), path)
    assert path.stat().st_size < 10_000
    with pq.ParquetFile(path) as file, pytest.raises(ArchiveDamagedError, match="1500000 rows"):
        check_num_rows(file)


def test_mutated_logs_are_rows_or_typed_errors(tmp_path: Path) -> None:
    archive = ArchiveWriter.open_or_create(str(tmp_path))
    for key in ("a.jpg", "b.jpg"):
        archive.commit([row(key)])
    logs = {path: path.read_bytes() for path in sorted(tmp_path.glob("_delta_log/*.json"))}
    rng = random.Random(20_263)
    ends: Counter[str] = Counter()
    for _ in range(300):
        spoilt = rng.choice(list(logs))
        for path, data in logs.items():
            path.write_bytes(mutated(data, rng) if path == spoilt else data)
        for read in (lambda: ArchiveWriter.open(str(tmp_path)).keys(), lambda: verify(ArchiveWriter.open(str(tmp_path)))):
            try:
                read()
                ends["read"] += 1
            except ArchiveError:
                ends["refused"] += 1
    assert ends["refused"] > 50
    assert ends["read"] > 50
