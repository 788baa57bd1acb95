"""Coordinates in text, whatever the text is called.

Two questions: is a value a coordinate, so that it can be removed; and does a longer text mention one, so that
a file that is stored as it is may hold a position.

Sources: RFC 5870 (geo URI); ISO 6709, annex H; OGC 06-103 (WKT); NGA.STND.0037 (MGRS); Open Location Code; machine tags of
photo sites.
"""

from __future__ import annotations

import re

_MAX_CHARACTERS = 4096
"""Of a value that is looked at: the start tells what it is."""
_NAMED = re.compile(
    r"""(?:(?:latitude|longt?itude|altitude|elevation|easting|northing|geohash)
          |(?:(?<![a-z])|gps|geo|exif)(?:lat|lon|lng|latlng|latlon|coords?|coordinates))
        (?:_?deg(?:rees)?|_?ref)?["']?
        (?: \s*[=:>]\s*["'(\[{\s]{0,8}[-+]?\d | \s+["'(\[]?[-+]?\d{1,3}[.,]\d{2} )""",
    re.IGNORECASE | re.VERBOSE,
)
"""lat=48.1, "longitude": 11.6, latitude 48.1373."""
_GEO_URI = re.compile(r"(?<![a-z])geo:\s?(?:[-+]?\d{1,3}[.,]|(?:lat|lon|lng|long|alt)\w*=)", re.IGNORECASE)
_MAP_LINK = re.compile(r"(?:w3w\.co|what3words\.com)/\w+\.\w+\.\w+", re.IGNORECASE)
_SHAPE = re.compile(
    r"(?:MULTI)?(?:POINT|LINESTRING|POLYGON|CURVE)\s{0,3}(?:Z|M|ZM)?\s{0,3}\({1,4}\s{0,3}[-+]?\d", re.IGNORECASE
)
_ISO_6709 = re.compile(r"(?<![\w.])[-+]\d{2,6}\.\d{1,12}[-+]\d{3,7}\.\d{1,12}")
_DEGREES = re.compile(
    r"""\d{1,3}(?:[.,]\d{1,12})?\s?[°º˚\ufffd]\s?(?:\d{1,2}(?:[.,]\d{1,12})?\s?['′’]\s?)?(?:\d{1,2}(?:[.,]\d{1,12})?\s?(?:["″”]|'')\s?)?[NSEW]\b
        |\b[NSEW]\s?\d{1,3}(?:[.,]\d{1,12}\s?[°º˚\ufffd]|\s?[°º˚\ufffd]\s?\d{1,2}\s?['′’.,])
        |(?<![\w.,])\d{1,3},\d{1,2}(?:\.\d{1,12}|,\d{1,2}(?:\.\d{1,12})?)[NSEW]\b
        |(?<![\w.])\d{1,3}\.\d{3,15}\s?[NSEW]\b|\b[NSEW]\s?\d{1,3}\.\d{3,15}""",
    re.VERBOSE,
)
"""48°08'14"N, 48,8.23N (as XMP has it), 48.1373 N."""
_PAIR = re.compile(
    r"(?<![\w.])([-+]?\d{1,3}\.\d{3,15})°?(?:\s{0,3}[,;/|]\s{0,3}|\s{1,3}|%2C)([-+]?\d{1,3}\.\d{3,15})(?![\d.])", re.IGNORECASE
)
_TEXTS = (_NAMED, _GEO_URI, _MAP_LINK, _SHAPE, _ISO_6709, _DEGREES)
_STARTS = (_NAMED, _GEO_URI, _SHAPE)
_LABEL = re.compile(
    r"\A(?:(?:gps|geo(?:tag)?|location|position|pos|coord(?:inate)?s?|wgs\s?-?84|srid=\d+;)\s*[:=]?\s*)?", re.IGNORECASE
)
_WHOLE = tuple(
    re.compile(pattern, re.IGNORECASE if ignores_case else 0)
    for pattern, ignores_case in (
        (r"(?:\+|-)\d{2,6}(?:\.\d+)?[-+]\d{3,7}(?:\.\d+)?(?:[-+]\d+(?:\.\d+)?)?(?:CRS[\w-]*)?/", True),
        (r"[-+]\d{2,6}\.\d+[-+]\d{3,7}\.\d+(?:[-+]\d+(?:\.\d+)?)?(?:CRS[\w-]*)?", True),
        (r"\d{1,2}[C-HJ-NP-X]\s?[A-HJ-NP-Z]{2}\s?(?:\d{6}|\d{8}|\d{10}|\d{3}\s\d{3}|\d{4}\s\d{4}|\d{5}\s\d{5})", False),
        (r"\d{1,2}\s?[C-HJ-NP-X]\s+\d{6}(?:\.\d+)?\s*(?:m?\s*E)?[\s,]+\d{6,7}(?:\.\d+)?\s*(?:m?\s*N)?", False),
        (r"(?=.*[CFGHJMPQRVWX])[2-9CFGHJMPQRVWX]{4,8}\+[2-9CFGHJMPQRVWX]{2,7}(?:,?\s.*)?", False),
        (r"///\w+\.\w+\.\w+", True),
    )
)  # fmt: skip
"""ISO 6709, MGRS, UTM, plus codes, what3words."""
_WHOLE_PAIR = re.compile(
    r"([-+]?\d{1,3}[.]\d{2,15}|[-+]?\d{1,3},\d{4,15})°?(?:\s*[,;/|]\s*|\s+)([-+]?\d{1,3}[.]\d{2,15}|[-+]?\d{1,3},\d{4,15})°?"
    r"(?:(?:\s*[,;/|]\s*|\s+)[-+]?\d{1,5}(?:[.,]\d+)?\s?m?)?"
)
"""Two numbers and maybe a height."""
_ANY_PAIR = re.compile(r"[\s(\[]*[-+]?\d{1,7}(?:\.\d+)?°?(?:\s*[,;/|]\s*|\s+)[-+]?\d{1,8}(?:\.\d+)?°?(?:[\s,;/|].*|[)\]]*)")
_DECIMAL = re.compile(r"\s*[-+]?\d{1,8}\.\d{2,15}\s*")
_PUNCTUATION = re.compile(rb"[.,:=>(\xc2]")
"""Every form has some; base64, of which a file may hold megabytes, has next to none."""
_PRINTABLE = re.compile(rb"(?:[\t\n\r\x20-\x7e]|\xc2[\xb0\xba]){8,}")


def is_coordinate(value: bytes | str) -> bool:
    """Whether a value is a coordinate, or begins with one that says so itself."""
    text = _text(value)[:_MAX_CHARACTERS].strip().strip("()[]").strip()
    bare = _LABEL.sub("", text).strip("([ ")
    if any(pattern.match(start) for pattern in _STARTS for start in (text, bare)):
        return True
    if any(pattern.fullmatch(bare) for pattern in _WHOLE) or _DEGREES.match(bare):
        return True
    if (pair := _WHOLE_PAIR.fullmatch(bare)) and _is_on_land(*pair.groups()):
        return True
    return text.startswith(("http://", "https://", "{", '"', "<")) and mentions_coordinate(text)


def is_numeric(value: bytes | str) -> bool:
    """Whether a value is a pair of numbers or a decimal: a position, if it is called a place."""
    text = _text(value)[:_MAX_CHARACTERS]
    return _ANY_PAIR.fullmatch(text) is not None or _DECIMAL.fullmatch(text) is not None


def mentions_coordinate(value: bytes | str) -> bool:
    """Whether there is a coordinate anywhere in a text."""
    text = _text(value)
    return any(pattern.search(text) for pattern in _TEXTS) or any(_is_on_land(*pair.groups()) for pair in _PAIR.finditer(text))


def in_bytes(data: bytes) -> bool:
    """Whether any readable text in a file mentions a coordinate."""
    runs = (found[0] for found in _PRINTABLE.finditer(data))
    return any(_PUNCTUATION.search(run) is not None and mentions_coordinate(run) for run in runs)


def _is_on_land(first: str, second: str) -> bool:
    """Whether two numbers can be a latitude and a longitude. Close to 0, 0 there is sea, and most places in a picture."""
    a, b = (abs(float(number.replace(",", "."))) for number in (first, second))
    return max(a, b) <= 180 and min(a, b) <= 90 and max(a, b) > 1


def _text(value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
