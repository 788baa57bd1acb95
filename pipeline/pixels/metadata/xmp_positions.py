"""Positions in XMP: which properties are one, by what their names mean or what they hold, and a packet without them.

Cameras, drones and programs have namespaces of their own for positions, and new ones come; exiftool's tables know some dozen.
So a name counts in every namespace: exif:GPSLatitude, drone-dji:GpsLongtitude, Camera:GPSXYAccuracy, dwc:decimalLatitude.
Whole namespaces count where they hold nothing else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat

from pipeline.pixels.metadata import coordinates

_NAMESPACES = (
    b"www.w3.org/2003/01/geo/wgs84_pos", b"www.georss.org/georss", b"www.opengis.net/gml", b"www.opengis.net/kml",
    b"developer.sonyericsson.com/cell/",
)  # fmt: skip
"""Parts of the URIs of namespaces that hold positions alone: points and shapes on a map, cells of a mobile network."""
_WORDS = (
    rb"gps|(?<!isospeed)latitude|longitude|longtitude|altitude|coordinate|wkt|plus_?code|what_?3_?words|iso_?6709|waypoint|geouri"
    rb"|elevation$|easting|northing|cell_?(?:id|tower|global)|location_?area_?code|wgs_?84"
    rb"|geo_?(?:hash|code|point|pos|loc|coord|tag|json|rss|lat|lon|lng)|^geo_?[xyz]$"
    rb"|(?:home|take_?off|launch|landing)_?(?:point|pos|loc|coord)"
    rb"|(?:flight|relative|absolute|ellipsoid(?:al)?|terrain|ground|orthometric|baro(?:metric)?)_?height|height_?above"
    rb"|(?:minimum|maximum|verbatim|ground|terrain)_?(?:elevation|depth|distanceabovesurface)|^(?:camera|drone)?_?position$"
)
_NAME = re.compile(rb"(?i:" + _WORDS + rb")")
_PLACE = re.compile(rb"(?i:(?<!subject)location|(?<!focus)position|place$|home|take_?off|where)")
"""Names of what may be words or numbers; the numbers are a position."""
_PART = re.compile(rb"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ANYWHERE = frozenset(
    {b"lat", b"lon", b"lng", b"latlon", b"latlong", b"latlng", b"utm", b"mgrs", b"olc", b"ecef", b"coord", b"coords"}
)
_AT_END = frozenset({b"long", b"alt", b"agl", b"msl", b"amsl", b"asl"})
"""Parts of a name such as LRFTargetLat or lat_long, and those that count as the last one only: AltText is no height."""
_RDF = b"http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_START_TAG = re.compile(rb"""<[^\s/>]+((?:\s+[^\s=<>/]+\s*=\s*(?:"[^"]*"|'[^']*'))*)\s*/?>""")
_ATTRIBUTE = re.compile(rb"""\s+([^\s=<>/]+)\s*=\s*("[^"]*"|'[^']*')""")
_MAX_DEPTH = 100
_MAX_VALUE_BYTES = 4096
# Each begins with a letter or more that are searched for fast.
_QUALIFIED = re.compile(rb":([A-Za-z][\w-]{2,80})")
_TAG = re.compile(rb"""<(?:([^\s<>/:="'&;]{1,40}):)?([A-Za-z_][\w.-]{2,80})[\s/>]""")
_IN_TAG = re.compile(rb"""\s(?:([^\s<>/:="'&;]{1,40}):)?([A-Za-z_][\w.-]{2,80})\s{0,20}=\s{0,20}["']""")
_SYNTAX = frozenset({b"rdf", b"xml", b"xmlns"})
"""Prefixes of what XML and RDF say themselves."""
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


def in_bytes(data: bytes) -> bool:
    """Whether a file that nobody takes apart may name a position: in XMP wherever it stands, or in a text of a PNG's."""
    if any(namespace in data for namespace in _NAMESPACES):
        return True
    for i, found in enumerate(_QUALIFIED.finditer(data)):
        if i == _MAX_NAMES:
            return True
        prefix = data[max(0, found.start() - 3) : found.start()]
        if _PREFIX.search(prefix) and prefix.lower() not in (b"rdf", b"lns") and _NAME.search(found[1]):
            return True
    for pattern in (_TAG, _IN_TAG):  # where XML says that it is a name, with any prefix or none
        for i, found in enumerate(pattern.finditer(data)):
            if i == _MAX_NAMES:
                return True
            if (found[1] or b"").lower() not in _SYNTAX and is_position(b"", found[2]):
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
    name: bytes
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
        self._parser.CommentHandler = self._comment
        self._parser.ProcessingInstructionHandler = self._instruction
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
        element = _Element(name.encode(), at, match.end(), namespaces, is_empty=match[0].endswith(b"/>"))
        self._open.append(element)
        element.is_position = self._is_position(name.encode(), is_element=True)
        for key, value, span in pairs:
            text = html.unescape(value.decode(errors="replace"))
            if not key.startswith(b"xmlns") and (self._is_position(key) or self._is_coordinate(text, key)):
                self.found.append(span)

    def _characters(self, data: str) -> None:
        element = self._open[-1]
        if not element.has_children and len(element.value) < _MAX_VALUE_BYTES:
            element.value += data.encode()

    def _end(self, _: str) -> None:
        element = self._open.pop()
        is_leaf = not element.has_children
        if not (element.is_position or (is_leaf and self._is_coordinate(element.value.decode(), element.name))):
            return
        end = element.end_of_tag if element.is_empty else self.text.index(b">", self._parser.CurrentByteIndex) + 1
        while self.found and self.found[-1][0] >= element.start:  # its own parts
            self.found.pop()
        self.found.append((element.start, end))

    def _comment(self, text: str) -> None:
        self._drop_remark(text, b"-->")

    def _instruction(self, target: str, text: str) -> None:
        if target != "xpacket":
            self._drop_remark(f"{target} {text}", b"?>")

    def _drop_remark(self, text: str, mark: bytes) -> None:
        if coordinates.mentions_coordinate(text) or any(pattern.search(text.lower().encode()) for pattern in _UNQUALIFIED):
            start = self._parser.CurrentByteIndex
            self.found.append((start, self.text.index(mark, start) + len(mark)))

    def _is_coordinate(self, value: str, qualified: bytes) -> bool:
        """Whether a value is one, whatever its name; numbers are, if it or what it is a part of is called a place."""
        if coordinates.is_coordinate(value):
            return True
        names = (name.rpartition(b":")[2] for name in (qualified, *(element.name for element in self._open)))
        return any(_PLACE.search(name) for name in names) and coordinates.is_numeric(value)

    def _is_position(self, qualified: bytes, *, is_element: bool = False) -> bool:
        prefix, colon, name = qualified.rpartition(b":")
        namespace = b""
        if colon or is_element:  # an attribute without a prefix is in no namespace
            namespace = next((e.namespaces[prefix] for e in reversed(self._open) if prefix in e.namespaces), b"")
        return prefix != b"xml" and is_position(namespace, name)
