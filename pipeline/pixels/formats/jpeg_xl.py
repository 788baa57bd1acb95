"""JPEG files as JPEG XL, reversibly: the coefficients are coded anew, and the very same file comes back.

    JPEG file ─► to_jpeg_xl ─► JPEG XL with a box `jbrd` (what the coefficients do not tell) ─► to_jpeg ─► JPEG file

Both run in the decoder process (`sandbox`). Source: ISO/IEC 18181-2, section 9.8 (JPEG bitstream reconstruction data).
"""

from __future__ import annotations

from pillow_jxl import Decoder, Encoder

from pipeline.errors import UnreadablePhotoError
from pipeline.pixels.formats.claims import read_claim
from pipeline.pixels.formats.heif_items import boxes

_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_RECONSTRUCTION = b"jbrd"
_EFFORT = 7


def holds_jpeg(stream: bytes) -> bool:
    """Whether a stream is a JPEG XL file from which a JPEG file can be put together."""
    return stream.startswith(_CONTAINER) and any(box.kind == _RECONSTRUCTION for box in boxes(stream, 0, len(stream)))


def is_lossless(stream: bytes) -> bool:
    """Whether a stream of the codec `jxl` gives exactly the pixels that it was made of."""
    claim = read_claim(stream)
    return claim is not None and claim.format == "JXL" and claim.is_lossless


def to_jpeg_xl(data: bytes) -> bytes:
    """A JPEG file as JPEG XL. Whether `to_jpeg` gives the same file back is for the caller to check.

    Raises:
        UnreadablePhotoError: libjxl cannot read the file (arithmetic coding, 12 bits, cut short) or represent it (CMYK).
    """
    # Of these options, only effort, container and threads concern a JPEG. The package's types are those of an earlier version.
    encoder = Encoder(  # type: ignore[call-arg]
        mode="RGB", lossless=True, quality=100, decoding_speed=0, effort=_EFFORT, use_container=True,
        use_original_profile=False, num_threads=0,
    )  # fmt: skip
    try:
        return bytes(encoder(data, 0, 0, jpeg_encode=True))
    except RuntimeError as error:
        raise UnreadablePhotoError(f"libjxl cannot transcode this JPEG file: {error}") from error


def to_jpeg(stream: bytes) -> bytes:
    """Inverse of `to_jpeg_xl`.

    Raises:
        UnreadablePhotoError: the stream is damaged, or holds no JPEG file.
    """
    try:
        is_reconstructed, _, data, *_ = Decoder(num_threads=0)(stream)
    except RuntimeError as error:
        raise UnreadablePhotoError(f"libjxl cannot put the JPEG file together: {error}") from error
    if not is_reconstructed:
        raise UnreadablePhotoError("the stream holds no JPEG file")
    return bytes(data)
