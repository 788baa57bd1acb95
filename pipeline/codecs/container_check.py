"""Is a row's bitstream what the row says it is? Its header alone is read, so no model is needed."""

from __future__ import annotations

from pipeline.codecs.classical import FORMATS, stream_header
from pipeline.entropy.container import CODEC_IDS, unpack
from pipeline.errors import CorruptStreamError, UnknownModelError
from pipeline.pixels.formats.claims import read_claim
from pipeline.pixels.formats.jpeg_xl import holds_jpeg
from pipeline.records import EncodedPhoto


def check_container(row: EncodedPhoto) -> None:
    """Hold the header of an encoded row's bitstream against the row: codec, model, width and height.

    Raises:
        CorruptStreamError: the header cannot be read, or says something else.
        UnknownModelError: the stream is of a codec that this program does not know.
    """
    stream = row.image or b""
    if row.codec == "jxl" and holds_jpeg(stream):
        _check_sides(stream, row)
        return
    if row.codec in FORMATS:
        seen = stream_header(stream, row.codec)
        found = (row.codec, row.model, seen.width, seen.height)
    elif row.codec in CODEC_IDS:
        header, _ = unpack(stream)
        found = (header.codec, header.model, header.width, header.height)
    else:
        raise UnknownModelError(f"the codec {row.codec!r} is not known here: update this program")
    if found != (row.codec, row.model, row.width, row.height):
        said = (row.codec, row.model, row.width, row.height)
        raise CorruptStreamError(f"the bitstream's header says {found}, the row {said} (codec, model, width, height)")


def _check_sides(stream: bytes, row: EncodedPhoto) -> None:
    """Compare the size of a JPEG that was transcoded, which is that before it is turned, with the row's."""
    claim = read_claim(stream)
    sides = None if claim is None else (claim.width, claim.height)
    if sides not in ((row.width, row.height), (row.height, row.width)):
        raise CorruptStreamError(f"the bitstream's header says {sides}, the row {(row.width, row.height)} (width, height)")
