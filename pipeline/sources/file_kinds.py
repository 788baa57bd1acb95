"""Which files claim to be photos, by their names and their first bytes."""

from __future__ import annotations

PHOTO_SUFFIXES = frozenset({"avif", "gif", "heic", "heif", "hif", "jpeg", "jpg", "jxl", "png", "tif", "tiff", "webp"})
# fmt: off
RAW_SUFFIXES = frozenset({
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq", "kdc", "mef", "mos", "mrw", "nef", "nrw",
    "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f",
})
# fmt: on
"""Of cameras' raw files, most of which look like a TIFF with a small picture in it, or like nothing known here."""
_OTHER_SUFFIXES = frozenset({"bmp", "j2k", "jfif", "jp2", "jpe", "jpf", "jpx", "pbm", "pgm", "pnm", "ppm", "psd", "tga"})

NUM_SIGNATURE_BYTES = 64
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, and most raw files
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"MM\0+",
    b"IIU\0",  # raw files of Panasonic, Olympus, Fujifilm and Sigma
    b"IIRO",
    b"IIRS",
    b"MMOR",
    b"FUJIFILMCCD-RAW",
    b"FOVb",
    b"8BPS",  # Photoshop
    b"\xff\x0a",  # JPEG XL
    b"\0\0\0\x0cJXL \r\n\x87\n",
    b"\xff\x4f\xff\x51",  # JPEG 2000
    b"\0\0\0\x0cjP  \r\n\x87\n",
)
_BRANDS = frozenset({b"avif", b"avis", b"crx ", b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"})
"""Of ISO base media files that are pictures (ISO/IEC 23008-12, annex B), not films."""
_BITMAP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_APPLE_DOUBLE = b"\0\5\x16\7"


def is_raw(key: str) -> bool:
    """Whether a file bears the name of a camera's raw file."""
    return _suffix(key) in RAW_SUFFIXES


def claims_to_be_photo(key: str, start: bytes | None = None) -> bool:
    """Whether a file has the suffix of a photo's name, raw files included, or begins as a photo does.

    Args:
        start: the first `NUM_SIGNATURE_BYTES` bytes, or more; None: the name alone decides.
    """
    if key.rpartition("/")[2].startswith("._") and (start is None or start.startswith(_APPLE_DOUBLE)):
        return False  # what macOS keeps of a file beside it, under the file's own suffix
    suffix = _suffix(key)
    if suffix in PHOTO_SUFFIXES or suffix in RAW_SUFFIXES or suffix in _OTHER_SUFFIXES:
        return True
    return start is not None and _begins_as_photo(start)


def _begins_as_photo(start: bytes) -> bool:
    if start.startswith(_SIGNATURES):
        return True
    if start[:4] == b"RIFF":
        return start[8:12] == b"WEBP"
    if start[4:8] == b"ftyp":
        return start[8:12] in _BRANDS
    return start[:2] == b"BM" and int.from_bytes(start[14:18], "little") in _BITMAP_HEADERS


def _suffix(key: str) -> str:
    name, dot, suffix = key.rpartition("/")[2].rpartition(".")
    return suffix.lower() if dot and name else ""
