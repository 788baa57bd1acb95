"""Small photos that differ, and archives of them made without a job."""

from __future__ import annotations

import hashlib
import io

from PIL import Image

from pipeline.records import EncodedPhoto, Outcome


def png(colour: int) -> bytes:
    """An 8 x 8 PNG of one colour, another for each number below 256."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 90, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def kept(key: str, data: bytes) -> EncodedPhoto:
    """A row of the file's own bytes."""
    return EncodedPhoto(
        key=key, image=data, codec="original", model=None, outcome=Outcome.KEPT, reason="asked for", format="PNG", width=8,
        height=8, mode="RGB", source_uri=f"/photos/{key}", source_bytes=len(data),
        source_sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
