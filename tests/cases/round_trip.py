"""A folder through the archive and back, with a codec that needs no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.archive.reader import Archive, read_rows
from pipeline.codecs.points import parse_ladder
from pipeline.decode.job import DecodeJob
from pipeline.decode.run import decode
from pipeline.encode.job import EncodeJob
from pipeline.encode.run import encode
from pipeline.records import EncodedPhoto


def there_and_back(source: Path, tmp_path: Path, **settings: Any) -> tuple[dict[str, EncodedPhoto], Path]:
    """Encode `source` and decode all of it again; return the rows by key and the folder of the restored files."""
    settings = {"ladder": parse_ladder("webp:80")} | settings
    archive, restored = tmp_path / "archive", tmp_path / "restored"
    encode(EncodeJob(source=str(source), archive=str(archive), **settings))
    decode(DecodeJob(archive=str(archive), destination=str(restored)))
    return {row.key: row for row in read_rows(Archive.open(str(archive)))}, restored
