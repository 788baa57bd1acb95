"""One thread that decodes for all requests: it has the codec to itself, and what waits for it is decoded together.

requests ──► waiting ──► decode thread: batches of like codec ──► write threads ──► files
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from pipeline.codecs.base import Pixels
from pipeline.codecs.registry import CodecOptions
from pipeline.decode.restore import batches, decode_batch, decoder, file_of
from pipeline.errors import PhotoarkError
from pipeline.records import EncodedPhoto

log = logging.getLogger(__name__)
MAX_BATCH_PIXELS = 8_000_000
"""Decoded together; who came first waits for all of them. At most two batches of pixels are in memory."""
_NUM_WRITE_THREADS = 2
_UNKNOWN = PhotoarkError("it was not tried")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    row: EncodedPhoto
    format: str | None
    file: Future[bytes] = field(default_factory=Future)


class Decoding:
    """Encoded rows to files. How many wait at once is for the caller to bound."""

    def __init__(self, options: CodecOptions, samples: Sequence[EncodedPhoto] = ()) -> None:
        """Start.

        Args:
            samples: rows whose codecs are loaded before others come, and run once: the first time takes seconds.
        """
        self._options = options
        self._samples = samples
        self._waiting: list[_Request] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._loaded = threading.Event()
        self._refusals: dict[tuple[str | None, str | None], PhotoarkError | None] = {}
        """Codec and model -> why it cannot be loaded. Kept, since finding out can mean to load another model in vain."""
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    def wait_until_loaded(self, timeout_s: float | None = None) -> bool:
        """Whether loading was over within `timeout_s`."""
        return self._loaded.wait(timeout_s)

    @property
    def is_ready(self) -> bool:
        """Whether loading is over, and at least one of the samples' codecs could be loaded, if there were any."""
        kinds = {(row.codec, row.model) for row in self._samples}
        return self._loaded.is_set() and (not kinds or any(self._refusals.get(kind, _UNKNOWN) is None for kind in kinds))

    def submit(self, row: EncodedPhoto, format: str | None) -> Future[bytes]:
        """The file of an encoded row.

        Args:
            format: Pillow's name of the container; None for the source's.

        The future raises:
            StreamError: the bitstream is damaged, or its codec is not installed.
            PhotoError: the file cannot be written in this format.
        """
        request = _Request(row=row, format=format)
        with self._changed:
            if self._is_closed:
                raise PhotoarkError("the server is about to end", key=row.key)
            self._waiting.append(request)
            self._changed.notify()
        return request.file

    def close(self) -> None:
        """Finish what waits, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        for row in self._samples:
            (pixels,) = self._decode([row])
            if isinstance(pixels, PhotoarkError):
                log.error("%s", pixels)
        self._loaded.set()
        writing: list[Future[None]] = []
        with ThreadPoolExecutor(_NUM_WRITE_THREADS, thread_name_prefix="write") as threads:
            while taken := self._take():
                requests = {id(request.row): request for request in taken}
                for batch in batches([request.row for request in taken], max_pixels=MAX_BATCH_PIXELS):
                    decoded = self._decode(batch)
                    wait(writing)
                    writing = [
                        threads.submit(_finish, requests[id(row)], pixels) for row, pixels in zip(batch, decoded, strict=True)
                    ]

    def _take(self) -> list[_Request]:
        """All that waits, once something does; nothing at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                taken, self._waiting = self._waiting, []
                wanted = [request for request in taken if request.file.set_running_or_notify_cancel()]
                if wanted or self._is_closed:
                    return wanted

    def _decode(self, rows: Sequence[EncodedPhoto]) -> Sequence[Pixels | PhotoarkError]:
        refusal = self._refusal(rows[0].codec, rows[0].model)
        return decode_batch(rows, self._options) if refusal is None else [refusal] * len(rows)

    def _refusal(self, codec: str | None, model: str | None) -> PhotoarkError | None:
        """Why a codec cannot be loaded; it is loaded otherwise."""
        if (codec, model) not in self._refusals:
            try:
                decoder(codec or "", model, self._options)
                self._refusals[codec, model] = None
            except PhotoarkError as error:
                self._refusals[codec, model] = error
            except Exception as error:  # of torch, for want of memory, say: another time it may go well
                return PhotoarkError(f"{codec} cannot be loaded: {type(error).__name__}: {error}")
        return self._refusals[codec, model]


def _finish(request: _Request, pixels: Pixels | PhotoarkError) -> None:
    try:
        if isinstance(pixels, PhotoarkError):
            raise pixels
        request.file.set_result(file_of(request.row, pixels, format=request.format))
    except Exception as error:
        request.file.set_exception(error)
