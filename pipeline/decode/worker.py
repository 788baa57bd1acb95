"""The actor that decodes: archive rows in, image files written, one result row a photo out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.codecs.base import Pixels
from pipeline.codecs.registry import CodecOptions
from pipeline.decode.restore import batches, decode_batch, decode_row, file_of, is_whole, original_of
from pipeline.errors import AlreadyExistsError, PathConflictError, PhotoarkError, StorageError
from pipeline.logs import about
from pipeline.on_ray.telemetry import record_restored
from pipeline.on_ray.work import ATTEMPT, STAGE, attempt
from pipeline.records import EncodedPhoto, Outcome, encoded_from_table
from pipeline.storage.base import Storage
from pipeline.storage.names import flat_path, restored_path

RESULT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64()),
        pa.field("num_pixels", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field(STAGE, pa.string()),
        pa.field(ATTEMPT, pa.int64()),
    ]
)
"""One row a photo: bytes written, or the reason why not, and in which stage; and which try at it this was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSettings:
    """What a decode worker needs to know."""

    destination: str
    options: CodecOptions = CodecOptions()
    format: str | None = None
    """Container of every restored file; None for the source's."""
    original: bool = False
    """Write the source files' own bytes instead of what is decoded."""
    overwrite: bool = False
    """Replace files that are there."""
    max_pixels: int = 32_000_000
    """Decoded pixels that wait for being written, at most; a larger photo goes alone."""
    num_write_threads: int = 2


class DecodeWorker:
    """Callable class for `Dataset.map_batches`: table of `ARCHIVE_SCHEMA` -> table of `RESULT_SCHEMA`."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings
        self._storage = Storage(settings.destination)
        self._codec_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(settings.num_write_threads, thread_name_prefix="write")

    def __call__(self, table: pa.Table) -> pa.Table:
        """Restore each row; an error becomes the row's reason."""
        rows = encoded_from_table(table)
        encoded = [row for row in rows if self._needs_pixels(row)]
        others = [row for row in rows if not self._needs_pixels(row)]
        written = [self._threads.submit(self._write, row, None) for row in others]
        for batch in batches(encoded, max_pixels=self._settings.max_pixels):
            with self._codec_lock:
                decoded = decode_batch(batch, self._settings.options)
            written += [self._threads.submit(self._write, row, pixels) for row, pixels in zip(batch, decoded, strict=True)]
        this = attempt()
        results = pa.Table.from_pylist([future.result() | {ATTEMPT: this} for future in written], schema=RESULT_SCHEMA)
        num_restored = results["reason"].null_count
        record_restored(
            num_restored=num_restored,
            num_failed=results.num_rows - num_restored,
            bytes_out=pc.sum(results["num_bytes"]).as_py() or 0,
        )
        return results

    def _needs_pixels(self, row: EncodedPhoto) -> bool:
        return not self._settings.original and row.outcome is Outcome.ENCODED and not is_whole(row, self._settings.format)

    def _file_of(self, row: EncodedPhoto, pixels: Pixels | None) -> bytes:
        if pixels is None and not is_whole(row, self._settings.format):
            pixels = decode_row(row, self._settings.options)
        return file_of(row, pixels, format=self._settings.format)

    def _write(self, row: EncodedPhoto, pixels: Pixels | PhotoarkError | None) -> dict[str, object]:
        # What cannot be read from the archive comes as a row that failed.
        stage = "read" if row.outcome is Outcome.FAILED else "decode"
        try:
            if isinstance(pixels, PhotoarkError):
                raise pixels
            with about(key=row.key, stage=stage):
                data = original_of(row) if self._settings.original else self._file_of(row, pixels)
            stage = "write"
            with about(key=row.key, stage=stage):
                self._store(row, data)
        except PhotoarkError as error:
            return _not_restored(row.key, error.message, stage)
        num_pixels = (row.width or 0) * (row.height or 0)
        return {"key": row.key, "num_bytes": len(data), "num_pixels": num_pixels, "reason": None, STAGE: None}

    def _store(self, row: EncodedPhoto, data: bytes) -> None:
        try:
            self._write_new(restored_path(row.key), data, row)
        except PathConflictError:  # a bucket can hold both `a` and `a/b`
            self._write_new(flat_path(row.key), data, row)

    def _write_new(self, path: str, data: bytes, row: EncodedPhoto) -> None:
        try:
            self._storage.write(path, data, modified_at=row.modified_at, replace=self._settings.overwrite)
        except AlreadyExistsError:
            # A block is done again after its actor died: then the file is this one.
            with suppress(StorageError):
                if self._storage.read(path) == data:
                    return
            raise


def not_restored(key: str, reason: str, stage: str, attempt: int) -> pa.Table:
    """The result of a photo that did not come back."""
    return pa.Table.from_pylist([_not_restored(key, reason, stage) | {ATTEMPT: attempt}], schema=RESULT_SCHEMA)


def _not_restored(key: str, reason: str, stage: str) -> dict[str, object]:
    return {"key": key, "num_bytes": None, "num_pixels": None, "reason": reason, STAGE: stage}
