"""Reads mutated archives by every way there is; in a process of its own, since a fault here ends a process, not a call.

python -m tests.hostile.parquet_fuzz FOLDER SEED COUNT    ->    one JSON line: how often each way ended how
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import resource
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from PIL import Image

from pipeline.archive.care.verify import verify
from pipeline.archive.reader import list_fragments
from pipeline.archive.shard_writer import render_shard
from pipeline.archive.summary import summarise
from pipeline.archive.writer import ArchiveWriter
from pipeline.codecs.container_check import check_container
from pipeline.codecs.registry import get_codec
from pipeline.decode.graph import read_rows
from pipeline.decode.restore import decode_row, restore
from pipeline.decode.worker import DecodeSettings, DecodeWorker
from pipeline.errors import PhotoarkError
from pipeline.patterns import EVERY_KEY, KeyPatterns
from pipeline.records import EncodedPhoto, Outcome
from tests.hostile.mutation import mutated

PHOTO = Path(__file__).parents[1] / "photos" / "bridge.jpg"
MEMORY_BYTES = 3 << 30
"""More than any of this needs, and less than a length that was made up may ask for."""


def main(folder: Path, seed: int, count: int) -> None:
    """Mutate `count` shards."""
    rng = random.Random(seed)
    shard, log = _template(folder / "template")
    ends: Counter[str] = Counter()
    untyped: list[str] = []
    worker = DecodeWorker(DecodeSettings(destination=str(folder / "out")))
    _bound_memory()
    for number in range(count):
        data = _mutated_shard(shard, rng)
        # The damage of chance leaves the name as it was; who means harm gives the file the name that it should have.
        digest = hashlib.sha256(data if rng.random() < 0.7 else shard).hexdigest()
        url = _archive(folder / "archive", data, log, digest)
        print(f"{number}: {hashlib.sha256(data).hexdigest()[:12]}", file=sys.stderr, flush=True)
        # Every file is verified, and read in one more way.
        ways = _ways(url, worker)
        for name in ("verify", list(ways)[1 + number % (len(ways) - 1)]):
            way = ways[name]
            try:
                ends[f"{name}: {way()}"] += 1
            except PhotoarkError as error:
                ends[f"{name}: {type(error).__name__}"] += 1
            except Exception:
                untyped.append(f"{number}, {name}: {traceback.format_exc()}")
    written = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
    strays = [path.name for path in folder.iterdir() if path.name not in ("template", "archive", "out")]
    print(json.dumps({"ends": ends, "written": len(written), "strays": strays, "untyped": untyped[:5]}))


def _ways(url: str, worker: DecodeWorker) -> dict[str, Callable[[], str]]:
    def verified() -> str:
        report = verify(ArchiveWriter.open(url), decode_row, check=check_container)
        return "clean" if report.is_clean else "damaged"

    def restored(key: str) -> str:
        return f"{len(restore(url, key).data) > 0}"

    def decoded(patterns: KeyPatterns) -> str:
        fragments = list_fragments(ArchiveWriter.open(url), patterns)

        items = pa.Table.from_pylist(
            [{"path": f.path, "row_group": f.row_group, "num_rows": f.num_rows, "skip": []} for f in fragments]
        )
        if not fragments:
            return "nothing"
        results = worker(read_rows(items, archive_url=url, patterns=patterns)).to_pylist()
        return "some failed" if any(result["reason"] for result in results) else "all written"

    return {
        "verify": verified,
        "restore": lambda: restored("b.webp"),
        "restore kept": lambda: restored("d.gif"),
        "decode": lambda: decoded(EVERY_KEY),
        "decode pattern": lambda: decoded(KeyPatterns(include=("[a-c]*",))),
        "stat": lambda: f"{summarise(ArchiveWriter.open(url)).num_photos > 0}",
    }


def _template(folder: Path) -> tuple[bytes, str]:
    """A shard of two row groups, and the log that names it."""
    picture = Image.open(PHOTO).resize((24, 16))
    pixels = __import__("numpy").asarray(picture)
    rows = [
        EncodedPhoto(
            key=f"{letter}.{name}", image=get_codec(name).encode([pixels])[0], codec=name, model=None, outcome=Outcome.ENCODED,
            format="PNG", width=24, height=16, mode="RGB", orientation=1, source_uri=f"/{letter}", source_bytes=9,
            source_sha256="0" * 64, exif=b"II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x/>",
        )
        for letter, name in zip("abc", ("jpeg", "webp", "jpeg"), strict=True)
    ]  # fmt: skip
    buffer = io.BytesIO()
    picture.save(buffer, "GIF")
    file = buffer.getvalue()
    rows.append(
        EncodedPhoto(
            key="d.gif", image=file, codec="original", model=None, outcome=Outcome.KEPT, reason="a GIF file", source_uri="/d",
            source_bytes=len(file), source_sha256=hashlib.sha256(file).hexdigest(), width=24, height=16,
        )
    )  # fmt: skip
    archive = ArchiveWriter.open_or_create(str(folder))
    archive.commit(rows)
    lines: Iterator[str] = (line for path in sorted(folder.glob("_delta_log/*.json")) for line in path.read_text().splitlines())
    log = "\n".join(line for line in lines if '"commitInfo"' not in line)
    return render_shard(rows)[1], log


def _archive(folder: Path, data: bytes, log: str, digest: str) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "_delta_log").mkdir(parents=True)
    (folder / f"photos-{digest}.parquet").write_bytes(data)
    actions = [json.loads(line) for line in log.splitlines()]
    for action in actions:
        if "add" in action:
            action["add"] |= {"path": f"photos-{digest}.parquet", "size": len(data)}
    (folder / "_delta_log" / f"{0:020d}.json").write_text("\n".join(map(json.dumps, actions)))
    return str(folder)


def _mutated_shard(shard: bytes, rng: random.Random) -> bytes:
    """A third of the faults anywhere, the others in the footer, most of them such that it can still be parsed."""
    footer_start = len(shard) - 8 - int.from_bytes(shard[-8:-4], "little")
    kind = rng.randrange(3)
    if kind == 0:
        return mutated(shard, rng)
    out = bytearray(shard)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(footer_start, len(shard) - 8)
        out[at] = out[at] ^ 1 << rng.randrange(8) if kind == 1 else rng.randrange(256)
    return bytes(out)


def _bound_memory() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
