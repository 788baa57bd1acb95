"""What a file is, from its header alone: no pixel is decoded, so nothing is allocated that the header could inflate."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace

from PIL import Image, UnidentifiedImageError

from pipeline.errors import UnreadablePhotoError
from pipeline.pixels.formats import tiff
from pipeline.pixels.formats.bare import without_metadata
from pipeline.pixels.formats.beside import more_than_pixels, num_pictures
from pipeline.pixels.formats.claims import read_claim
from pipeline.pixels.formats.metadata import read_metadata
from pipeline.pixels.formats.writer import WRITABLE_FORMATS
from pipeline.pixels.metadata.orientation import orientation_of, size_upright
from pipeline.records import PhotoHeader

# Pillow's own guard would refuse or warn at sizes that we bound ourselves, below.
Image.MAX_IMAGE_PIXELS = None

_DNG_VERSION, _SUB_DIRECTORIES, _MAKE, _BITS_PER_SAMPLE = 50706, 330, 271, 258
_MODES = ("RGB", "L", "YCbCr")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLimits:
    """Bounds of what is decoded."""

    max_pixels: int = 200_000_000
    """Width times height."""
    max_bytes: int = 1 << 30
    """Of the file."""
    time_s: float = 30.0
    """For decoding any file, however small (`sandbox`)."""
    time_per_megapixel_s: float = 1.0
    """And for every million pixels that its header claims."""
    memory_bytes: int = 512 << 20
    """For decoding any file, beside what the decoder's process takes when idle and the file itself."""
    memory_per_pixel_bytes: int = 32
    """And for every pixel: those of the file, those that come out, and what a decoder keeps in between."""


DEFAULT_LIMITS = PixelLimits()


def probe(data: bytes, *, limits: PixelLimits = DEFAULT_LIMITS, is_stream: bool = False) -> PhotoHeader:
    """Look at the header of an image file.

    A sound image that no pixel codec may take has `unsupported` set to the reason.

    Args:
        is_stream: it is what a codec made of a photo, so its format need not be one that files come back in.

    Raises:
        UnreadablePhotoError: the bytes are no image that can be opened.
    """
    claim = read_claim(data)
    if claim is not None and (reason := _beyond(claim.width, claim.height, len(data), limits)):
        return PhotoHeader(format=claim.format, width=claim.width, height=claim.height, mode="RGB", unsupported=reason)
    metadata = read_metadata(data)
    with open_image(data) as image:
        if image.format in ("HEIF", "AVIF"):
            metadata = replace(metadata, icc=image.info.get("icc_profile") or None)
        orientation = orientation_of(image, metadata.exif)
        width, height = size_upright(image, orientation)
        reason = _unsupported(image, data, limits, is_animated=claim is not None and claim.is_animated, is_stream=is_stream)
        return PhotoHeader(
            format=image.format or "unknown",
            width=width,
            height=height,
            mode=image.mode,
            orientation=orientation,
            metadata=metadata,
            unsupported=reason or more_than_pixels(image, data, metadata),
        )


def open_image(data: bytes) -> Image.Image:
    """Open the picture of a file, header only: without its metadata, which could hinder Pillow, or make it turn the pixels.

    Raises:
        UnreadablePhotoError: empty, or no image format that is known here.
    """
    if not data:
        raise UnreadablePhotoError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd but harmless metadata
            return Image.open(io.BytesIO(without_metadata(data)))
    except UnidentifiedImageError as error:
        raise UnreadablePhotoError("the file is not an image of a known format") from error
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadablePhotoError(f"the image's header cannot be read: {error}") from error


def _beyond(width: int, height: int, num_bytes: int, limits: PixelLimits) -> str | None:
    if width * height > limits.max_pixels:
        return f"{width * height / 1e6:.0f} megapixels, more than the limit of {limits.max_pixels / 1e6:.0f}"
    if num_bytes > limits.max_bytes:
        return f"{num_bytes / 1e6:.0f} MB, more than the limit of {limits.max_bytes / 1e6:.0f}"
    return None


def _unsupported(image: Image.Image, data: bytes, limits: PixelLimits, *, is_animated: bool, is_stream: bool) -> str | None:
    if reason := _beyond(image.width, image.height, len(data), limits):
        return reason
    if is_animated:
        return "animated"
    num_frames = max(getattr(image, "n_frames", 1), num_pictures(data))
    if num_frames > 1:
        return f"animated or of several pages ({num_frames} frames)"
    tags = tiff.tags_of(data)
    if _DNG_VERSION in tags or (_SUB_DIRECTORIES in tags and _MAKE in tags):
        return "a camera's raw file"
    if data.startswith(tiff.BIG):
        return "a BigTIFF"
    if _SUB_DIRECTORIES in tags:
        return "pictures within a picture (sub-directories of a TIFF)"
    if _bits_per_sample(image, data) > 8:
        return "more than 8 bits a channel"
    if image.mode == "CMYK":
        return "CMYK colours"
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        return "transparency"
    if not is_stream and image.format not in WRITABLE_FORMATS:
        return f"a {image.format} file, which could not be written back with all that is in it"
    if image.mode not in _MODES:
        return f"pixels of mode {image.mode}"
    return None


def _bits_per_sample(image: Image.Image, data: bytes) -> int:
    # Pillow reduces some 16-bit files to 8 bits without a word.
    if image.format == "PNG":
        return data[24] if len(data) > 24 else 8
    if image.format == "TIFF":
        return int(max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))))
    if image.format == "AVIF":
        return _av1_bits(data)
    return int(image.info.get("bit_depth", 16 if image.mode.startswith("I") else 8))


def _av1_bits(data: bytes) -> int:
    """Of an AVIF file, from its `av1C` boxes (AV1 in ISO base media, section 2.3): one for the photo, one for its alpha."""
    bits, at = 8, data.find(b"av1C")
    while 0 <= at < len(data) - 6:
        flags = data[at + 6]
        bits = max(bits, 12 if flags & 0x20 else 10 if flags & 0x40 else 8)
        at = data.find(b"av1C", at + 4)
    return bits
