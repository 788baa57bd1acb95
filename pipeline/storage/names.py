"""Names of files and keys of photos, one to one in both directions.

    name on disk (bytes) -> key (text)            `key_of_name`, and back `name_of_key`
    key -> path below the folder of a restore     `restored_path`; `flat_path` where something else has that path
    any text -> one line on a terminal            `printable`, and back `from_printable`

A key is what a listing gives: the path below the source, as it is. On a disk a name may hold bytes that are not UTF-8; in a key
each of them is `␛` and two hex digits. In a bucket a key may hold parts that cannot be the name of a file: such a part
gets the prefix `␛-`. Where a key is printed, its control characters are `␛{` and their code points in hex.
"""

from __future__ import annotations

import hashlib
import re
import sys
from urllib.parse import quote

MAX_NAME_BYTES = 255
"""Of one part of a path, on the usual file systems."""
_INTRODUCER = "␛"
_PART, _WHOLE = "␛-", "␛+"
"""Prefixes of an escaped part of a key, and of a whole key in one part."""
_BYTE = re.compile(f"{_INTRODUCER}([89a-f][0-9a-f])")
_LITERAL = re.compile(f"{_INTRODUCER}(?=[89a-f][0-9a-f])")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_UNPRINTABLE = re.compile(
    f"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|{_INTRODUCER}(?={{[0-9a-f]{{2,6}}}})"
)
_PRINTED = re.compile(f"{_INTRODUCER}{{([0-9a-f]{{2,6}})}}")
_UNSAFE = re.compile(f"[%/\0{_INTRODUCER}]")
_ORDINARY = re.compile(f"(?:(?!\\.{{1,2}}(?:/|$))[^/\0{_INTRODUCER}]{{1,63}}(?:/(?!$)|$))+")
"""Most keys: names of at most 63 characters, which take at most 252 bytes."""
_MAX_SUFFIX_BYTES = 16


def key_of_name(name: bytes) -> str:
    """Spell the name or the path of a local file as text; UTF-8 stays as it is.

    Each byte that is not part of UTF-8 becomes `␛` and two hex digits, and so does each byte of a `␛` that would
    read as such: different names give different keys.
    """
    text = _LITERAL.sub(lambda match: "".join(f"{_INTRODUCER}{byte:02x}" for byte in match[0].encode()), _decoded(name))
    return _NOT_UTF8.sub(lambda match: f"{_INTRODUCER}{ord(match[0]) - 0xDC00:02x}", text)


def name_of_key(key: str) -> bytes:
    """Return the name or the path of the local file that `key_of_name` spells as `key`."""
    return _BYTE.sub(lambda match: chr(0xDC00 + int(match[1], 16)), key).encode("utf-8", "surrogateescape")


def restored_path(key: str) -> str:
    """Return the path, relative to its destination, of the file that `key` is restored to.

    It is the key itself, unless a part of it cannot be the name of a file: an empty one (`a//b`, `/a`, `a/`), `.`, `..`, one
    with a NUL or of more than `MAX_NAME_BYTES`, or one that looks like an escaped name. Different keys have different paths,
    and each stays below the destination.
    """
    if _ORDINARY.fullmatch(key):
        return key
    return "/".join(part if _is_name(part) else _escaped(part, _PART) for part in key.split("/"))


def flat_path(key: str) -> str:
    """Return another path of `key`, of one part: for when the first is a folder, or needs one where there is a file."""
    return _escaped(key, _WHOLE)


def may_be_escaped(path: str) -> bool:
    """Whether a file at `path` may be that of a key other than `path`."""
    return _PART in path or _WHOLE in path


def printable(text: str) -> str:
    """Spell `text` so that it takes one line and cannot control a terminal: a line feed becomes `␛{0a}`.

    Escaped are control characters, line and paragraph separators, characters that embed or override a writing direction,
    surrogates, and each `␛` that would read as an escape: different texts stay different.
    """
    return _UNPRINTABLE.sub(lambda match: f"{_INTRODUCER}{{{ord(match[0]):02x}}}", text)


def from_printable(text: str) -> str:
    """Return the text that `printable` spells as `text`; what it never writes stays as it is."""

    def character(match: re.Match[str]) -> str:
        code = int(match[1], 16)
        found = chr(code) if code <= sys.maxunicode else ""
        return found if found == _INTRODUCER or (found and _UNPRINTABLE.fullmatch(found)) else match[0]

    return _PRINTED.sub(character, text)


def clipped(text: str, max_bytes: int) -> str:
    """Return the longest start of `text` that takes at most `max_bytes` in UTF-8."""
    return text.encode("utf-8", "surrogateescape")[:max_bytes].decode("utf-8", "ignore")


def _is_name(part: str) -> bool:
    if part in ("", ".", "..") or part.startswith((_PART, _WHOLE)) or "\0" in part:
        return False
    name = name_of_key(part)
    return len(name) <= MAX_NAME_BYTES and key_of_name(name) == part


def _escaped(text: str, prefix: str) -> str:
    name = prefix + _UNSAFE.sub(lambda match: quote(match[0], safe=""), text)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    dot = name.rfind(".")
    suffix = name[dot:] if dot >= 0 and len(name[dot:].encode()) <= _MAX_SUFFIX_BYTES else ""
    # No other name holds a percent sign that is not followed by two hex digits.
    end = f"%~{hashlib.sha256(text.encode()).hexdigest()[:32]}{suffix}"
    return clipped(name, MAX_NAME_BYTES - len(end.encode())) + end


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
