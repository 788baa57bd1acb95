"""What a file holds beside one picture of 8-bit colours and its metadata, so that these alone must not stand for it."""

from __future__ import annotations

import io
import struct
from typing import Any

import pillow_heif
from PIL import Image

from pipeline.pixels.formats import beside_heif, beside_jpeg, beside_tiff, dropped, png_chunks, png_walk, webp_walk
from pipeline.pixels.formats.bare import without_metadata
from pipeline.pixels.formats.containers import container_of
from pipeline.pixels.metadata import photoshop
from pipeline.pixels.metadata.exif import PREFIX, orientation
from pipeline.records import PhotoMetadata

# Primaries of BT.709, which sRGB shares, and curves near sRGB's, by their numbers in ITU-T H.273; 2 is "not said".
_PLAIN_PRIMARIES, _PLAIN_CURVES = (1, 2), (1, 2, 6, 13, 14, 15)
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_SRGB_GAMMA = 45455
_MAX_COLOURS = 256
"""Of a suggested palette."""
_VP8X_BYTES = 10
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})


def num_pictures(data: bytes) -> int:
    """How many pictures or pages the container itself lists, beside what a decoder finds; 1 if it lists none."""
    count = _PICTURES.get(container_of(data) or "")
    try:
        return count(data) if count else 1
    except (ValueError, IndexError, struct.error):
        return 1


def more_than_pixels(image: Image.Image, data: bytes, metadata: PhotoMetadata) -> str | None:
    """Why the pixels of an opened file and its metadata would not be that file; None when they are.

    Nothing is known here of cameras and programs but names: a part that neither travels nor is safe to drop (`dropped`) counts.

    Args:
        data: the file.
    """
    container = container_of(data)
    try:
        reason = _MORE_THAN_PICTURE[container](data, metadata) if container else None
    except (ValueError, IndexError, struct.error):
        return "parts that cannot be told apart: its structure is damaged"
    return reason or (_colours(image, data) if container == "BMFF" else None)


def _colours(image: Image.Image, data: bytes) -> str | None:
    try:
        info: dict[str, Any] = pillow_heif.open_heif(io.BytesIO(without_metadata(data)), convert_hdr_to_8bit=False).info
    except MemoryError:
        raise
    except Exception:  # of an AVIF, which libavif opened: libheif knows less of them
        return None if image.format == "HEIF" else "parts that are not known here"
    colours = info.get("nclx_profile")
    if colours and not image.info.get("icc_profile"):
        primaries, curve = colours["color_primaries"], colours["transfer_characteristics"]
        if primaries not in _PLAIN_PRIMARIES or curve not in _PLAIN_CURVES:
            return f"colours by numbers alone (primaries {primaries}, transfer {curve}), without an ICC profile"
    return None


def _png(data: bytes, metadata: PhotoMetadata) -> str | None:
    chunks, rest = png_walk.walk(data)
    payloads = {chunk.kind: chunk.payload for chunk in chunks if chunk.kind in (b"cICP", b"sRGB", b"gAMA", b"cHRM")}
    if b"cICP" in payloads:
        return "colours by numbers (cICP), which only a PNG holds"
    for chunk in chunks:
        is_picture = chunk.kind in png_walk.PICTURE and chunk.kind != b"IEND"
        if is_picture or _png_travels(chunk, metadata) or not chunk.num_bytes:
            continue
        name = f"a chunk {chunk.kind.decode('ascii', errors='backslashreplace')} of {chunk.num_bytes} bytes"
        if chunk.kind in (b"iCCP", b"eXIf") or (chunk.kind in _TEXTS and png_chunks.is_block(chunk.payload)):
            return f"{name}: metadata that cannot be read, or is there twice"
        if chunk.is_critical or not _is_dropped(chunk):
            return name
    if not (metadata.icc or b"sRGB" in payloads or _is_srgb(payloads)):
        return "colours by numbers (gAMA, cHRM), which only a PNG holds"
    return dropped.trailer(rest)


def _png_travels(chunk: png_walk.Chunk, metadata: PhotoMetadata) -> bool:
    if chunk.kind == b"eXIf":
        return chunk.payload.removeprefix(PREFIX) == metadata.exif
    if chunk.kind == b"iCCP":
        return metadata.icc is not None
    if chunk.kind in _TEXTS and png_chunks.is_block(chunk.payload):
        block = png_chunks.block_in(chunk.kind, chunk.payload)
        if block is not None and photoshop.resources(block)[0]:
            return beside_jpeg.more_than_iptc(block, metadata) is None
        return block is not None and block in (b"", metadata.exif, metadata.icc, metadata.xmp, metadata.iptc)
    return chunk.kind == b"pHYs" and chunk.num_bytes <= dropped.PNG_BYTES[b"pHYs"]


def _is_dropped(chunk: png_walk.Chunk) -> bool:
    if chunk.kind == b"sPLT":
        _, _, palette = chunk.payload.partition(b"\0")
        return len(palette) <= 1 + _MAX_COLOURS * (10 if palette[:1] == b"\x10" else 6)
    most = dropped.PNG_BYTES.get(chunk.kind, chunk.num_bytes)
    return dropped.is_in(dropped.PNG_CHUNKS, chunk.kind) and not chunk.payload[most:].strip(b"\0")


def _is_srgb(payloads: dict[bytes, bytes]) -> bool:
    gamma, whites = payloads.get(b"gAMA", b""), payloads.get(b"cHRM", b"")
    # One that is too short is none, for decoders too.
    is_plain_gamma = len(gamma) < 4 or abs(int.from_bytes(gamma[:4], "big") - _SRGB_GAMMA) < 1000
    found = struct.unpack_from(">8I", whites) if len(whites) >= 32 else _SRGB_CHROMATICITIES
    return is_plain_gamma and all(abs(a - b) < 200 for a, b in zip(found, _SRGB_CHROMATICITIES, strict=True))


def _webp(data: bytes, metadata: PhotoMetadata) -> str | None:
    chunks, rest = webp_walk.walk(data)
    announced = next((payload[0] for kind, payload in chunks if kind == b"VP8X" and payload), 0)
    carried = {
        b"ICCP": (metadata.icc, webp_walk.HAS_ICC),
        b"EXIF": (metadata.exif, webp_walk.HAS_EXIF),
        b"XMP ": (metadata.xmp, webp_walk.HAS_XMP),
    }
    pictures = [kind for kind, _ in chunks if kind in (b"VP8 ", b"VP8L")]
    for kind, payload in chunks:
        is_picture = (kind in pictures and len(pictures) == 1) or (kind == b"VP8X" and not payload[_VP8X_BYTES:].strip(b"\0"))
        if is_picture or not payload:
            continue
        block, flag = carried.get(kind, (None, 0))
        if block is None or payload.removeprefix(PREFIX) != block:
            return f"a chunk {kind.decode('ascii', errors='backslashreplace')} of {len(payload)} bytes"
        if not announced & flag and (kind == b"ICCP" or (kind == b"EXIF" and orientation(block) != 1)):
            # Viewers skip it; in the restored file they would not.
            return f"a chunk {kind.decode('ascii')} that its header does not announce"
    return dropped.trailer(rest)


_PICTURES = {"JPEG": beside_jpeg.num_pictures, "PNG": png_walk.num_pictures, "TIFF": beside_tiff.num_pages}
_MORE_THAN_PICTURE = {
    "JPEG": beside_jpeg.more_than_picture,
    "PNG": _png,
    "WEBP": _webp,
    "TIFF": beside_tiff.more_than_picture,
    "BMFF": beside_heif.more_than_picture,
}
