"""What is lost although the photo is encoded: the one list that the walks through the containers and jobs/README.md share.

Every part of a file belongs to the picture, is metadata that travels, or is listed here. Whatever is left over is a reason to
keep the file as its bytes (`beside`).
"""

from __future__ import annotations

import re
import struct

JPEG_SEGMENTS = {
    "comments": re.compile(rb"\xfe[^\x01-\x08\x0b\x0e-\x1f]*\Z|\xeaUNICODE\0"),
    "JFIF's own thumbnails": re.compile(rb"\xe0(?:JFXX|AMPF)\0"),
    "notes of encoders (Adobe_CM, AVI1, the quality of Ducky and GraphicConverter)": re.compile(
        rb"\xedAdobe_CM|\xecDucky|\xe0AVI1|\xefQ ?\d{1,3}\0?\Z"
    ),
    "Scalado's index": re.compile(rb"\xe4SCALADO\0"),
}
"""What their marker and payload begin with; `jpeg_notes` checks the rest."""
PNG_CHUNKS = {
    "texts other than XMP": frozenset({b"tEXt", b"zTXt", b"iTXt"}),
    "tIME, bKGD, hIST, sPLT, sBIT, oFFs, vpAg, caNv and iDOT": frozenset(
        {b"tIME", b"bKGD", b"hIST", b"sPLT", b"sBIT", b"oFFs", b"vpAg", b"caNv", b"iDOT"}
    ),
    "gAMA, cHRM and sRGB, if they say sRGB or stand beside an ICC profile": frozenset({b"gAMA", b"cHRM", b"sRGB"}),
}
PNG_BYTES = {
    b"tIME": 7, b"bKGD": 6, b"hIST": 512, b"sBIT": 4, b"oFFs": 9, b"vpAg": 9, b"caNv": 16, b"iDOT": 64, b"gAMA": 4, b"cHRM": 32,
    b"sRGB": 1, b"pHYs": 9,
}  # fmt: skip
"""The most bytes of a chunk that is dropped or read; a longer one holds something else."""
INVALID_RESOLUTION = {"a print resolution without a valid unit or number": None}
"""JFIF knows the units 0 to 2; PNG 0 and 1, and numbers from 1 to 2^31 - 1."""
PHOTOSHOP_RESOURCES = {
    "Photoshop's settings for print and screen, guides, slices, thumbnail, copyright flag and URL": frozenset(
        {*range(1000, 1089), 10000} - {1008, 1025, 1028, 1039, 1058, 1059, 1060, 1074, 1075}
    )
}
"""By number. Left over are paths, captions, measurements, plug-ins' resources, and metadata that belongs elsewhere."""
OTHER_RESOURCES = {"resources of ImageReady and PhotoDeluxe": None}
"""Those of a signature that is not Photoshop's own."""
HEIF_REFERENCES = {"thumbnails in HEIC and AVIF": frozenset({b"thmb"})}
"""From the item to the photo."""
SAMSUNG_RECORDS = {
    "Samsung's trailer, if it says no more than time, country, colours and mode of the camera": frozenset(
        {b"Image_UTC_Data", b"MCC_Data", b"Camera_Capture_Mode_Info", b"Camera_Scene_Info", b"Color_Display_P3"}
    )
}
REPLACED = {"up to 512 bytes that no tag refers to, as a program leaves that writes a directory anew": 512}
"""In a TIFF: libtiff and others append the new directory and leave the old one where it was."""
PADDING = {"padding behind the picture": b"\0\xff\xd9 \t\r\n"}
"""0xD9 is of a JPEG that ends twice."""
_MAX_RECORD_BYTES = 256
"""Of a record of Samsung's: a number or a short text."""
README_LIST = {
    "JPEG": (*JPEG_SEGMENTS, *PHOTOSHOP_RESOURCES, *OTHER_RESOURCES, *SAMSUNG_RECORDS, *INVALID_RESOLUTION, *PADDING),
    "PNG": (*PNG_CHUNKS, *PHOTOSHOP_RESOURCES, *OTHER_RESOURCES, *INVALID_RESOLUTION, *PADDING),
    "WebP": (*PADDING,),
    "TIFF": (*PHOTOSHOP_RESOURCES, *OTHER_RESOURCES, *REPLACED, *PADDING),
    "HEIC, AVIF": (*HEIF_REFERENCES, *SAMSUNG_RECORDS, *PADDING),
}
"""Container -> what of it does not travel, in the words of jobs/README.md."""
_SINGLE_FRAME = (b"maniIRFR", b"mfri", b"mopt")
"""Resources of Photoshop's plug-ins about the frames of an animation, as it writes them for a photo too."""
_TRAILERS = (
    (b"RIFF", "a sound or a film"), (b"\x89PNG", "a PNG"), (b"PK\3\4", "a ZIP archive"), (b"SEFH", "Samsung's records"),
    (b"SEFT", "Samsung's records"), (b"CANON OPTIONAL DATA", "Canon's record of edits"), (b"AXS!", "AFCP metadata"),
    (b"AXS*", "AFCP metadata"), (b"\xa1\xb2\xc3\xd4", "FotoStation metadata"), (b"cbipcbbl", "PhotoMechanic's record"),
)  # fmt: skip


def is_in(table: dict[str, frozenset[bytes]], kind: bytes) -> bool:
    """Whether a table lists a kind of part."""
    return any(kind in kinds for kinds in table.values())


def is_harmless_resource(signature: bytes, number: int, content: bytes) -> bool:
    """Whether one of Photoshop's resources is safe to drop; one without content always is."""
    is_listed = any(number in numbers for numbers in PHOTOSHOP_RESOURCES.values())
    return not content or signature != b"8BIM" or is_listed or content.startswith(_SINGLE_FRAME)


def trailer(rest: bytes) -> str | None:
    """What bytes behind a picture are, if they are not safe to drop."""
    (padding,) = PADDING.values()
    if not rest.translate(None, padding) or is_harmless_of_samsung(rest.rstrip(padding)):
        return None
    if b"ftyp" in rest or b"\xff\xd8\xff" in rest:
        return "a film or another picture after the first, as in motion photos"
    what = next((what for mark, what in _TRAILERS if mark in rest), "data that is not known here")
    return f"{len(rest)} bytes behind the picture: {what}"


def is_harmless_of_samsung(rest: bytes) -> bool:
    """Whether all is Samsung's trailer of such records: they, a directory (SEFH) of where they stand, its length, SEFT."""
    try:
        length, mark = struct.unpack_from("<I4s", rest, len(rest) - 8)
        start = len(rest) - 8 - length
        head, _, count = struct.unpack_from("<4sII", rest, start)
        if mark != b"SEFT" or head != b"SEFH" or length != 12 + 12 * count:
            return False
        covered = 0
        for at in range(start + 12, start + length, 12):
            _, back, size = struct.unpack_from("<III", rest, at)
            (name_bytes,) = struct.unpack_from("<I", rest, start - back + 4)
            if not is_in(SAMSUNG_RECORDS, rest[start - back + 8 :][:name_bytes]):
                return False
            if size > _MAX_RECORD_BYTES:
                return False
            covered += size
        return covered == start
    except (struct.error, ValueError):
        return False
