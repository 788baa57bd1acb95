"""Positions in XMP: which properties are one, by what their names mean, and a packet without them.

Cameras, drones and programs have namespaces of their own for positions, and new ones come; exiftool's tables know some dozen.
So a name counts in every namespace: exif:GPSLatitude, drone-dji:GpsLongtitude, Camera:GPSXYAccuracy, dwc:decimalLatitude.
Whole namespaces count where they hold nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

_NAMESPACES = (
    b"www.w3.org/2003/01/geo/wgs84_pos", b"www.georss.org/georss", b"www.opengis.net/gml", b"www.opengis.net/kml",
    b"developer.sonyericsson.com/cell/",
)  # fmt: skip
"""Parts of the URIs of namespaces that hold positions alone: points and shapes on a map, cells of a mobile network."""
_WORDS = (
    rb"gps|(?<!isospeed)latitude|longitude|longtitude|altitude|geohash|geopoint|coordinate|footprintwkt"
    rb"|(?:minimum|maximum|verbatim|ground|terrain)_?(?:elevation|depth|distanceabovesurface)"
)
_NAME = re.compile(rb"(?i:" + _WORDS + rb")")
_PART = re.compile(rb"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ANYWHERE, _AT_END = frozenset({b"lat", b"lon", b"lng", b"latlon", b"latlong", b"latlng"}), frozenset({b"long", b"alt"})
"""Parts of a name such as LRFTargetLat or lat_long, and those that count as the last one only: AltText is no height."""
_RDF = b"http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_COORDINATE = re.compile(rb"\s*geo:(?:-?\d|(?:lat|lon|lng|long|alt)\w*=)", re.IGNORECASE)
_START_TAG = re.compile(rb"""<[^\s/>]+((?:\s+[^\s=<>/]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*/?>""")
_ATTRIBUTE = re.compile(rb"""\s+([^\s=<>/]+)\s*=\s*("[^"]*"|'[^']*')""")
_MAX_DEPTH = 100
_MAX_VALUE_BYTES = 64
# Each begins with a letter or more that are searched for fast.
_QUALIFIED = re.compile(rb":([A-Za-z][\w-]{2,80})")
_MAX_NAMES = 1_000_000
"""Far more than an honest file holds; to look at more could take minutes."""
_PREFIX = re.compile(rb"[\w-]{2}$")
_UNQUALIFIED = (re.compile(rb"gps[ _:.-]?(?:lat|lon|pos|alt|coord|dest)"), re.compile(rb"geo:(?:lat|lon|lng)\w*="))


def is_position(namespace: bytes, name: bytes) -> bool:
    """Whether a property is a position or a part of one."""
    if namespace == _RDF:
        return False
    if _NAME.search(name) or any(part in namespace for part in _NAMESPACES):
        return True
    parts = [part.lower() for part in _PART.findall(name)]
    return not _ANYWHERE.isdisjoint(parts) or (bool(parts) and parts[-1] in _AT_END)


def is_coordinate(value: bytes) -> bool:
    """Whether a value is a coordinate whatever it is called: a URI such as geo:48.1,11.6, or a tag such as geo:lat=48.1."""
    return _COORDINATE.match(value) is not None


def in_bytes(data: bytes) -> bool:
    """Whether a file that nobody takes apart may name a position: in XMP wherever it stands, or in a text of a PNG's."""
    if any(namespace in data for namespace in _NAMESPACES):
        return True
    for i, found in enumerate(_QUALIFIED.finditer(data)):
        if i == _MAX_NAMES:
            return True
        prefix = data[max(0, found.start() - 3) : found.start()]
        if _PREFIX.search(prefix) and prefix.lower() != b"rdf" and is_position(b"", found[1]):
            return True
    lower = data.lower()
    return any(pattern.search(lower) for pattern in _UNQUALIFIED)


def removed(packet: bytes) -> bytes | None:
    """The same packet without positions, and otherwise the same to the byte; None where it cannot be parsed."""
    lead = len(packet) - len(packet.lstrip(b"\0 \r\n\t"))
    text = packet[lead:].rstrip(b"\0 \r\n\t")
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities could grow without bound, or hide a name
        return None
    search = _Search(text)
    try:
        search.run()
    except (expat.ExpatError, LookupError, ValueError):
        return None
    kept, at = [], 0
    for start, end in search.found:
        kept.append(text[at:start])
        at = end
    return packet[:lead] + b"".join(kept) + text[at:] + packet[lead + len(text) :]


@dataclass(slots=True)
class _Element:
    start: int
    end_of_tag: int
    namespaces: Mapping[bytes, bytes]
    """Those that it declares itself, by prefix."""
    is_position: bool = False
    is_empty: bool = False
    has_children: bool = False
    value: bytes = b""


@dataclass(slots=True)
class _Search:
    """One pass over a packet; `found` is where positions start and end, in order and without overlaps."""

    text: bytes
    found: list[tuple[int, int]] = field(default_factory=list)
    _open: list[_Element] = field(default_factory=list)
    _parser: expat.XMLParserType = field(default_factory=expat.ParserCreate)

    def run(self) -> None:
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.Parse(self.text, True)

    def _start(self, name: str, _: dict[str, str]) -> None:
        at = self._parser.CurrentByteIndex
        match = _START_TAG.match(self.text, at)
        if match is None or len(self._open) == _MAX_DEPTH:
            raise ValueError("tags of more than one byte a character, or too many within each other")
        if self._open:
            self._open[-1].has_children = True
        pairs = [(pair[1], pair[2][1:-1], pair.span()) for pair in _ATTRIBUTE.finditer(self.text, *match.span(1))]
        namespaces = {key[6:]: value for key, value, _ in pairs if key == b"xmlns" or key.startswith(b"xmlns:")}
        element = _Element(at, match.end(), namespaces, is_empty=match[0].endswith(b"/>"))
        self._open.append(element)
        element.is_position = self._is_position(name.encode(), is_element=True)
        for key, value, span in pairs:
            if not key.startswith(b"xmlns") and (self._is_position(key) or is_coordinate(value)):
                self.found.append(span)

    def _characters(self, data: str) -> None:
        element = self._open[-1]
        if not element.has_children and len(element.value) < _MAX_VALUE_BYTES:
            element.value += data.encode()

    def _end(self, _: str) -> None:
        element = self._open.pop()
        if not (element.is_position or (not element.has_children and is_coordinate(element.value))):
            return
        end = element.end_of_tag if element.is_empty else self.text.index(b">", self._parser.CurrentByteIndex) + 1
        while self.found and self.found[-1][0] >= element.start:  # its own parts
            self.found.pop()
        self.found.append((element.start, end))

    def _is_position(self, qualified: bytes, *, is_element: bool = False) -> bool:
        prefix, colon, name = qualified.rpartition(b":")
        namespace = b""
        if colon or is_element:  # an attribute without a prefix is in no namespace
            namespace = next((e.namespaces[prefix] for e in reversed(self._open) if prefix in e.namespaces), b"")
        return prefix != b"xml" and is_position(namespace, name)
