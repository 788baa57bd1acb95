"""Pixels -> image file, with its metadata put back."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pillow_heif
import pillow_jxl  # noqa: F401 (registers itself with Pillow)
from PIL import Image

from pipeline.errors import UnsupportedPhotoError
from pipeline.pixels.formats import png_chunks, tiff
from pipeline.pixels.formats.metadata import in_parts_of, read_metadata, save_options, upright
from pipeline.pixels.metadata import exif, resolution
from pipeline.pixels.metadata.orientation import TURNED_BY_EXIF, turned_back
from pipeline.pixels.metadata.xmp import can_be_marked, marked
from pipeline.records import PhotoHeader, PhotoMetadata

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

pillow_heif.register_heif_opener()

# High quality throughout: the restored file should lose nothing that the codec kept.
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "PNG": {},
    "WEBP": {"quality": 95, "method": 4},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "AVIF": {"quality": 90, "subsampling": "4:4:4"},
    "HEIF": {"quality": 90, "chroma": 444},
}
_LOSSLESS_OPTIONS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True, "quality": 100, "method": 4},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
    # Nearest: its conversion of colours rounds, by two levels at most.
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
WRITABLE_FORMATS = frozenset(_OPTIONS)
"""Pillow's names of the containers that `write_photo` can make, with EXIF, ICC and XMP in each."""
_INSTEAD = "; restore with --format PNG"
_MIN_HIDDEN_BYTES = 16
"""Of a placeholder: no other bytes of a file are like it."""
_EMPTY_EXIF = (b"II*\0\x08\0\0\0\0\0", b"MM\0*\0\0\0\x08\0\0")
"""How EXIF blocks without an entry begin, the only sound ones that are too short for a placeholder."""
_WITHOUT_GREY = frozenset({"WEBP"})


def write_photo(
    pixels: NDArray[np.uint8],
    *,
    format: str,
    mode: str,
    metadata: PhotoMetadata,
    orientation: int | None = None,
    lossless: bool = False,
) -> bytes:
    """Encode H x W x 3 RGB pixels as a file.

    Args:
        pixels: as displayed.
        format: Pillow's name of the container.
        mode: the source's; `L` gives a grey file.
        orientation: 1 to 8, as `metadata` has it: the pixels are turned back to how the source stored them, and EXIF with its
            thumbnail and maker notes stays as it was. None: they are stored as displayed, and the orientation becomes 1; always
            so where the container itself says which way is up.
        lossless: keep the pixels as they are, in any format but JPEG and AVIF.

    Raises:
        UnsupportedPhotoError: nothing here writes this format, or it cannot hold the metadata.
    """
    if format not in _OPTIONS:
        raise UnsupportedPhotoError(f"files of format {format} cannot be written{_INSTEAD}")
    image = Image.fromarray(pixels)
    if orientation is None or format not in TURNED_BY_EXIF:
        metadata = upright(metadata)
    else:
        image = turned_back(image, orientation)
    if mode == "L":
        image = image.convert("L")
    if mode == "L" and format in _WITHOUT_GREY and (metadata.icc or b"")[16:20] == b"GRAY":
        raise UnsupportedPhotoError(f"a {format} file cannot be grey, and its colour profile is{_INSTEAD}")
    metadata = in_parts_of(format, metadata)
    chosen = _LOSSLESS_OPTIONS.get(format, _OPTIONS[format]) if lossless else _OPTIONS[format]
    options = chosen | (save_options(format, metadata) if format != "TIFF" else {})
    if format == "AVIF" and image.mode == "L":
        options["subsampling"] = "4:0:0"
    # The libraries would write these anew or refuse them, and turn pixels by what they find in there.
    hidden = _hidden(options) if format in ("AVIF", "HEIF") else {}
    # Pillow reads a block that is too short to hide, and libavif refuses what is no EXIF.
    shown = options.get("exif", b"").removeprefix(exif.PREFIX)
    if format == "AVIF" and 0 < len(shown) < _MIN_HIDDEN_BYTES and not shown.startswith(_EMPTY_EXIF):
        raise UnsupportedPhotoError(f"its EXIF is damaged, and an AVIF file cannot hold it{_INSTEAD}")
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=format, **options)
        if format == "TIFF":
            return tiff.with_pixels(buffer.getvalue(), metadata)
    except Exception as error:  # Pillow's, about metadata that is too long or makes no sense, are of any kind
        raise UnsupportedPhotoError(
            f"the photo and its metadata do not go into a file of format {format}: {error}{_INSTEAD}"
        ) from error
    data = buffer.getvalue()
    for placeholder, block in hidden.items():
        data = data.replace(placeholder, block, 1)
    return _with_resolution(data, format, resolution.parse(metadata.resolution))


def _hidden(options: dict[str, Any]) -> dict[bytes, bytes]:
    """Put placeholders for EXIF and XMP into options, in place; placeholder -> block."""
    hidden = {}
    for name, start in (("exif", exif.EMPTY), ("xmp", b"")):
        block = options.get(name, b"").removeprefix(exif.PREFIX)
        filler = hashlib.shake_128(name.encode()).hexdigest(len(block)).encode()
        placeholder = (start + filler)[: len(block)]
        if len(placeholder) >= _MIN_HIDDEN_BYTES:
            options[name] = placeholder
            hidden[placeholder] = block
    return hidden


def why_not_back(header: PhotoHeader, *, is_marked: bool) -> str | None:
    """Why a photo could not be written back into its own container with its metadata; None where it can.

    A picture of a few pixels is written with them and read again.

    Args:
        is_marked: with the note that neural codecs add, too.
    """
    import numpy as np  # here: the process that decodes for others does without

    metadata = header.metadata
    if metadata == PhotoMetadata(resolution=metadata.resolution):
        return None
    if is_marked and metadata.xmp and not can_be_marked(metadata.xmp):
        return "its XMP cannot be read, so it could not say which model made the pixels"
    wanted = [metadata, replace(metadata, xmp=marked(metadata.xmp, codec="c" * 32, model="0" * 16))]
    pixels = np.zeros((16, 16, 3), np.uint8)
    try:
        for blocks in wanted if is_marked else wanted[:1]:
            data = write_photo(pixels, format=header.format, mode=header.mode, metadata=blocks, orientation=header.orientation)
            if reason := _lost(header.format, blocks, data):
                return reason
    except UnsupportedPhotoError as error:
        return f"it could not be restored as it was: {error.message.removesuffix(_INSTEAD)}"
    return None


def _with_resolution(data: bytes, format: str, found: resolution.Resolution | None) -> bytes:
    if found is not None and format == "JPEG":
        return resolution.in_jpeg(data, found)
    if found is not None and format == "PNG" and (payload := resolution.as_phys(found)):
        return png_chunks.with_chunk(data, b"pHYs", payload)
    return data


def _lost(format: str, metadata: PhotoMetadata, data: bytes) -> str | None:
    """Which block of metadata is not in a written file as it was."""
    expected = in_parts_of(format, metadata if format in TURNED_BY_EXIF else upright(metadata))
    found = read_metadata(data)
    if format not in TURNED_BY_EXIF:
        expected = replace(expected, icc=None)  # which decoders read
    if format == "TIFF" and expected.exif:
        # Its directories are laid out anew, which closes the gaps where positions were taken out.
        expected = replace(expected, exif=tiff.exif_of(expected.exif))
    for name, kind in (("exif", "EXIF"), ("icc", "ICC"), ("xmp", "XMP"), ("xmp_extended", "XMP"), ("iptc", "IPTC")):
        if getattr(expected, name) != getattr(found, name):
            return f"its {kind} could not be written back as it was"
    return None
