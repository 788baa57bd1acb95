"""Metadata in the chunks of a PNG, wherever they stand: before the pixels or behind them.

    EXIF   eXIf, or a text profile
    XMP    a text of its own keyword, or a text profile
    ICC    iCCP, or a text profile
    IPTC   a text profile

A text profile is what ImageMagick writes: a text whose keyword is `Raw profile type NAME`, of a name, a length and
hexadecimal digits. Pillow reads only some of these, and of what follows the pixels nothing before it has decoded them.
Sources: W3C PNG, sections 5 and 11.3; ImageMagick, `coders/png.c`; exiftool, `PNG.pm`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from pipeline.pixels.formats import png_walk
from pipeline.pixels.formats.jpeg_segments import XMP_HEADER, iptc_of, resources_with
from pipeline.pixels.metadata import resolution
from pipeline.pixels.metadata.exif import PREFIX
from pipeline.records import PhotoMetadata

_XMP_KEYWORD = b"XML:com.adobe.xmp"
_PROFILE_KEYWORD = b"Raw profile type "
_PROFILE = re.compile(rb"\n[^\n]*\n\s{0,20}\d{1,20}\n(.*)", re.DOTALL)
_TIFF = (b"II*\0", b"MM\0*")
_MAX_BYTES = 16 << 20
"""Of a block when decompressed: an honest one is far smaller, and a hostile one could grow without bound."""
_AFTER_HEADER = len(png_walk.SIGNATURE) + 25


def metadata_of(data: bytes) -> PhotoMetadata:
    """Metadata of a PNG; where two chunks hold the same kind, the standard one counts."""
    exif = icc = xmp = phys = None
    profiles: dict[bytes, bytes] = {}
    chunks, _ = png_walk.walk(data)
    for kind, payload in ((chunk.kind, chunk.payload) for chunk in chunks if chunk.kind not in png_walk.PICTURE):
        if kind == b"eXIf":
            exif = exif or payload
        elif kind == b"pHYs":
            phys = phys or resolution.of_phys(payload)
        elif kind == b"iCCP":
            icc = icc or _inflated(payload.partition(b"\0")[2][1:])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = payload.partition(b"\0")
            if keyword == _XMP_KEYWORD:
                xmp = _text(kind, text) or xmp
            elif keyword.startswith(_PROFILE_KEYWORD) and (profile := _profile(_text(kind, text) or b"")):
                profiles[keyword.removeprefix(_PROFILE_KEYWORD).lower()] = profile
    # ImageMagick names a profile after the segment of the JPEG that it came from, so its bytes tell what it is.
    blocks = [profiles[name] for name in (b"exif", b"app1", b"xmp") if name in profiles]
    exif = exif or next((block for block in blocks if block.startswith((PREFIX, *_TIFF))), None)
    xmp = xmp or next((block.removeprefix(XMP_HEADER) for block in blocks if block.startswith((XMP_HEADER, b"<"))), None)
    resources = [profiles[name] for name in (b"iptc", b"8bim") if name in profiles]
    return PhotoMetadata(
        exif=exif.removeprefix(PREFIX) or None if exif else None,
        icc=icc or profiles.get(b"icc") or profiles.get(b"icm"),
        xmp=xmp,
        iptc=next((iptc for block in resources if (iptc := block if block.startswith(b"\x1c") else iptc_of(block))), None),
        resolution=str(phys) if phys else None,
    )


def is_block(payload: bytes) -> bool:
    """Whether a text is a block of metadata, by its keyword."""
    return payload.partition(b"\0")[0] == _XMP_KEYWORD or payload.startswith(_PROFILE_KEYWORD)


def block_in(kind: bytes, payload: bytes) -> bytes | None:
    """The block of metadata in a text; None where it is damaged or unreasonably large."""
    keyword, _, text = payload.partition(b"\0")
    content = _text(kind, text)
    if content is None or keyword == _XMP_KEYWORD:
        return content
    profile = _profile(content)
    return None if profile is None else profile.removeprefix(PREFIX).removeprefix(XMP_HEADER)


def plain_texts(data: bytes) -> Iterator[bytes | None]:
    """The texts of a PNG with their keywords, decompressed, and profiles decoded; None for those that cannot be."""
    for chunk in png_walk.walk(data)[0]:
        if chunk.kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, text = chunk.payload.partition(b"\0")
            plain = _text(chunk.kind, text)
            yield None if plain is None else _profile(plain) or keyword + b"\0" + plain


def xmp_chunk(xmp: bytes) -> tuple[bytes, bytes]:
    """Type and payload of the chunk that holds a packet."""
    return b"iTXt", _XMP_KEYWORD + b"\0\0\0\0\0" + xmp


def iptc_chunk(iptc: bytes) -> tuple[bytes, bytes]:
    """Type and payload of the chunk that holds IPTC datasets: PNG has none for them, and readers know ImageMagick's."""
    block = resources_with(iptc)
    digits = block.hex()
    lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
    return b"zTXt", _PROFILE_KEYWORD + b"iptc\0\0" + zlib.compress(f"\niptc\n{len(block):8}\n{lines}\n".encode())


def with_chunk(png: bytes, kind: bytes, payload: bytes) -> bytes:
    """The file with another chunk behind its header."""
    chunk = struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))
    return png[:_AFTER_HEADER] + chunk + png[_AFTER_HEADER:]


def _text(kind: bytes, text: bytes) -> bytes | None:
    """The text of a chunk, given what follows its keyword; None where it is damaged."""
    if kind == b"tEXt":
        return text
    if kind == b"zTXt":
        return _inflated(text[1:])
    is_compressed = text[:1] == b"\1"
    content = text[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind the language and the translated keyword
    return _inflated(content) if is_compressed else content


def _inflated(data: bytes) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(data, _MAX_BYTES)
    except zlib.error:
        return None
    return found if found and inflater.eof else None


def _profile(text: bytes) -> bytes | None:
    if (match := _PROFILE.match(text)) is None:
        return None
    try:
        return bytes.fromhex(match[1].decode("ascii")) or None
    except ValueError:
        return None
