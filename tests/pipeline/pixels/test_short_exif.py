"""EXIF blocks of a few bytes, sound or not, in formats whose writers read them."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from pipeline.errors import UnreadablePhotoError, UnsupportedPhotoError
from pipeline.pixels.formats.probe import probe
from pipeline.pixels.formats.writer import write_photo
from pipeline.records import PhotoMetadata

PIXELS = np.full((16, 24, 3), 128, np.uint8)
ONE_ENTRY = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\1\0\0\0\0\0\0\0"


@pytest.mark.parametrize("format", ["AVIF", "HEIF"])
@pytest.mark.parametrize("block", [b"\xff" * 31, b"garbage!" * 4, ONE_ENTRY, b"MM\0*\0\0\0\x08\0\0\0\0\0\0"])
def test_a_short_block_comes_back_or_is_refused_in_one_line(format: str, block: bytes) -> None:
    for length in range(1, len(block) + 1):
        with contextlib.suppress(UnsupportedPhotoError):
            data = write_photo(PIXELS, format=format, mode="RGB", metadata=PhotoMetadata(exif=block[:length]))
            assert probe(data).format == format
            assert length < 16 or block[:length] in data


def test_a_reason_is_one_line() -> None:
    error = UnreadablePhotoError("it is damaged:\n  at byte 7\r\n", key="a.heic")
    assert str(error) == "a.heic: it is damaged: at byte 7"
