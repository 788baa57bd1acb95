"""What FORMAT.md says of reading an archive without this code, run as it stands there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.archive.shard_writer import Shard
from pipeline.archive.writer import ArchiveWriter
from tests.served import kept
from tests.support.command_line import photoark

ROOT = Path(__file__).parents[1]
SECTION = "## Read without any of this code"
LATER_COLUMNS = ("same_as", "xmp_extended", "recipe", "ssimulacra2", "perceptual", "lpips", "dists", "original")
RUN = """
import ast, json, sys
import datasets
datasets.disable_progress_bars()
names, found = {"ARCHIVE": sys.argv[1], "datasets": datasets}, []
for statement in ast.parse(sys.stdin.read()).body:
    exec(compile(ast.Module([statement], []), "FORMAT.md", "exec"), names)
    if isinstance(statement, ast.Assign) and statement.targets[0].id == "rows":
        rows = names["rows"]
        if hasattr(rows, "fetchall"):  # DuckDB
            found.append([key for key, *_ in rows.fetchall()])
        else:
            found.append(list(rows["key"]))
            if isinstance(rows, datasets.Dataset):
                assert all(row["image"]["bytes"] for row in rows)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, photo_files: dict[str, bytes]) -> Path:
    """So many commits that the log has a checkpoint; the first shard of an earlier version, and one replaced."""
    url = tmp_path_factory.mktemp("readers") / "archive"
    opened = ArchiveWriter.open_or_create(str(url))
    photo = kept("00.jpg", photo_files["wine.jpg"], "JPEG")
    for i in range(22):
        opened.commit([replace(photo if i < 21 else kept("", b"a film, no picture"), key=f"{i:02}.jpg")])
    earlier = next(shard for shard in opened.shards() if shard.least_key == "00.jpg")
    table = pq.read_table(url / earlier.path)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    features = {name: feature for name, feature in features.items() if name not in LATER_COLUMNS}
    table = table.select(list(features)).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    name = f"photos-{hashlib.sha256(buffer.getvalue()).hexdigest()}.parquet"
    (url / name).write_bytes(buffer.getvalue())
    statistics = {"numRecords": 1, "minValues": {"key": "00.jpg"}, "maxValues": {"key": "00.jpg"}, "nullCount": {"key": 0}}
    old = Shard(path=name, size_bytes=len(buffer.getvalue()), num_rows=1, modified_ms=0, statistics=json.dumps(statistics))
    assert opened.log.swap([earlier.path], [old])
    opened.put([replace(photo, key="07.jpg", reason="again")])
    assert list((url / "_delta_log").glob("*.checkpoint.parquet"))
    return url


def blocks() -> list[str]:
    """The Python code of the section."""
    section = (ROOT / "pipeline/archive/FORMAT.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def keys_by(code: str, archive: Path, home: Path) -> list[list[str]]:
    """The keys that each recipe finds, in a process of its own: these tools warn, and keep caches."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", RUN, str(archive)]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def printed_by(*arguments: object) -> str:
    """What a command prints on standard output."""
    result = photoark(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows_in(archive: Path) -> int:
    """What a glob gives."""
    return sum(pq.read_metadata(path).num_rows for path in archive.glob("*.parquet"))


def test_each_tool_finds_each_row_once(archive: Path, tmp_path: Path) -> None:
    expected = [f"{i:02}.jpg" for i in range(22)]
    assert rows_in(archive) > 22
    *always, after_vacuum = blocks()
    found = keys_by("\n".join(always), archive, tmp_path)
    assert [sorted(keys) for keys in found] == [expected] * 5

    opened = ArchiveWriter.open(str(archive))
    listed = [json.loads(line) for line in printed_by("ls", archive, "--shards", "--json").splitlines()]
    assert {line["shard"] for line in listed} == {f"{archive}/{shard.path}" for shard in opened.shards()}
    assert (sum(line["num_rows"] for line in listed), len(listed)) == (22, 22)

    planned = json.loads(printed_by("optimize", archive, "--vacuum", "--dry-run", "--json"))
    done = json.loads(printed_by("optimize", archive, "--vacuum", "--json"))
    assert done == {**planned, "dry_run": False}
    assert (len(done["vacuum"]["paths"]), done["vacuum"]["left"]) == (24, [])
    assert rows_in(archive) == 22
    assert printed_by("ls", archive, "--shards").splitlines() == [str(path) for path in archive.glob("*.parquet")]
    assert [sorted(keys) for keys in keys_by(after_vacuum, archive, tmp_path)] == [expected]
    assert printed_by("optimize", archive, "--vacuum").splitlines() == ["nothing to merge in 1 shard", "nothing to delete"]
