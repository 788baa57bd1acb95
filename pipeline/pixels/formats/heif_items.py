"""The items of a HEIF or AVIF file and how they are tied to the photo, read without a decoder.

Sources: ISO/IEC 14496-12, section 8.11 (meta, iinf, iloc, iref, iprp); 23008-12 (HEIF), sections 6 and 9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.pixels.metadata.exif import PREFIX

EXIF, MIME = b"Exif", b"mime"
_HIDDEN = {EXIF: b"exif", MIME: b"mimo"}
"""Types that no decoder knows, of the same length, so that nothing in the file moves."""
_XMP_CONTENT = b"application/rdf+xml"


@dataclass(frozen=True, slots=True)
class Box:
    """One box."""

    kind: bytes
    start: int
    """Of its content, in the file."""
    end: int


@dataclass(slots=True)
class Item:
    """One item, by what the file says of it."""

    number: int
    kind: bytes
    kind_at: int
    """Where its type stands in the file."""
    content: bytes = b""
    """Of a `mime` item: the type of its content, and behind a zero its encoding."""
    ties: list[tuple[bytes, int]] = field(default_factory=list)
    """Type of a reference from it, and the item that it leads to."""
    properties: list[bytes] = field(default_factory=list)
    """Types of its properties."""
    auxiliary: bytes = b""
    """What an auxiliary picture is: the name in its `auxC`."""
    method: int = 0
    """Where its extents count from: 0 the file, 1 the `idat` box."""
    extents: list[tuple[int, int]] = field(default_factory=list)
    """Offset and length of each."""
    located_at: list[tuple[int, int]] = field(default_factory=list)
    """Where the file says all this: start and end of the numbers."""

    @property
    def is_xmp(self) -> bool:
        """Whether its content is an XMP packet as it is."""
        kind, _, encoding = self.content.partition(b"\0")
        return self.kind == MIME and kind == _XMP_CONTENT and not encoding.strip(b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """What a file holds."""

    outer: list[Box]
    """Its outermost boxes."""
    inner: list[Box]
    """The boxes of its `meta`."""
    primary: int
    items: dict[int, Item]
    idat: int
    """Where the content of the `idat` box stands."""
    unused_properties: list[Box]
    """Properties that no item has."""
    end: int
    """Of its boxes."""


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Boxes between two places; one that exceeds them, and what follows it, is left out."""
    at = start
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        content = at + 8
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        elif size == 0:
            size = end - at
        if size < content - at or at + size > end:
            return
        yield Box(kind, content, at + size)
        at += size


def read_items(data: bytes) -> Items:
    """Items of a file.

    Raises:
        ValueError: it has no `meta` box, or one that makes no sense.
        struct.error: a box of it is cut short.
    """
    outer = list(boxes(data, 0, len(data)))
    meta = next((box for box in outer if box.kind == b"meta"), None)
    if meta is None:
        raise ValueError("no meta box")
    inner = {box.kind: box for box in boxes(data, meta.start + 4, meta.end)}
    if b"pitm" not in inner or b"iinf" not in inner:
        raise ValueError("no items")
    items = {item.number: item for item in _item_infos(data, inner[b"iinf"])}
    for kind, read in ((b"iref", _tie), (b"iloc", _locate)):
        if kind in inner:
            read(data, inner[kind], items)
    unused_properties = _describe(data, inner[b"iprp"], items) if b"iprp" in inner else []
    at = inner[b"pitm"].start
    return Items(
        outer=outer,
        inner=list(boxes(data, meta.start + 4, meta.end)),
        unused_properties=unused_properties,
        primary=_number(data, at + 4, 4 if data[at] else 2),
        items=items,
        idat=inner[b"idat"].start if b"idat" in inner else 0,
        end=outer[-1].end,
    )


def content_of(data: bytes, found: Items, item: Item) -> bytes | None:
    """Bytes of an item; None if they do not lie in the file."""
    if item.method > 1 or (item.method == 1 and not found.idat):
        return None
    base, content = found.idat if item.method else 0, bytearray()
    for offset, length in item.extents:
        if base + offset + length > len(data) or len(content) + length > len(data):
            return None
        content += data[base + offset : base + offset + length]
    return bytes(content)


def exif_in(content: bytes | None) -> bytes | None:
    """The EXIF block in an `Exif` item, behind the offset of its TIFF header."""
    if content is None or len(content) < 4:
        return None
    offset = _number(content, 0, 4)
    return (content[4 + offset :] if 4 + offset < len(content) else content[4:]).removeprefix(PREFIX)


def metadata_of(data: bytes) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP of the photo as the file holds them; None of what is missing or cannot be read."""
    try:
        found = read_items(data)
    except (ValueError, IndexError, struct.error):
        return None, None
    exif = xmp = None
    for item in found.items.values():
        if any(kind == b"cdsc" and other != found.primary for kind, other in item.ties):
            continue
        if item.kind == EXIF:
            exif = exif or exif_in(content_of(data, found, item))
        elif item.is_xmp:
            xmp = xmp or content_of(data, found, item)
    return exif or None, xmp or None


def without_metadata(data: bytes) -> bytes:
    """The same file, whose EXIF and XMP decoders do not find."""
    out = bytearray(data)
    for item in read_items(data).items.values():
        if item.kind in _HIDDEN:
            out[item.kind_at : item.kind_at + 4] = _HIDDEN[item.kind]
            for start, end in item.located_at:  # decoders refuse a file for an item that lies outside of it, too
                out[start:end] = bytes(end - start)
    return bytes(out)


def _item_infos(data: bytes, iinf: Box) -> Iterator[Item]:
    first = iinf.start + 4 + (4 if data[iinf.start] else 2)
    for box in boxes(data, first, iinf.end):
        if box.kind != b"infe":
            continue
        version = data[box.start]
        if version < 2:
            raise ValueError("items without a type")
        width = 4 if version == 3 else 2
        kind_at = box.start + 4 + width + 2
        kind = data[kind_at : kind_at + 4]
        name_end = data.index(b"\0", kind_at + 4, box.end) if kind == MIME else box.end
        yield Item(_number(data, box.start + 4, width), kind, kind_at, data[name_end + 1 : box.end])


def _tie(data: bytes, iref: Box, items: dict[int, Item]) -> None:
    width = 4 if data[iref.start] else 2
    for box in boxes(data, iref.start + 4, iref.end):
        item = items.get(_number(data, box.start, width))
        count = _number(data, box.start + width, 2)
        first = box.start + width + 2
        for at in range(first, min(first + count * width, box.end), width):
            if item is not None:
                item.ties.append((box.kind, _number(data, at, width)))


def _describe(data: bytes, iprp: Box, items: dict[int, Item]) -> list[Box]:
    """Note the properties of each item; return those that no item has."""
    inside = list(boxes(data, iprp.start, iprp.end))
    properties = [box for outer in inside if outer.kind == b"ipco" for box in boxes(data, outer.start, outer.end)]
    used: set[int] = set()
    for box in inside:
        if box.kind != b"ipma":
            continue
        width, is_wide = 4 if data[box.start] else 2, data[box.start + 3] & 1
        at = box.start + 8
        for _ in range(_number(data, box.start + 4, 4)):
            item = items.get(_number(data, at, width))
            num_properties, at = _number(data, at + width, 1), at + width + 1
            for _ in range(num_properties):
                index = _number(data, at, 2) & 0x7FFF if is_wide else _number(data, at, 1) & 0x7F
                at += 2 if is_wide else 1
                if item is not None and 0 < index <= len(properties):
                    used.add(index - 1)
                    found = properties[index - 1]
                    item.properties.append(found.kind)
                    if found.kind == b"auxC":
                        item.auxiliary = data[found.start + 4 : found.end].split(b"\0")[0]
            if at > box.end:
                raise ValueError("properties beyond their box")
    return [box for i, box in enumerate(properties) if i not in used]


def _locate(data: bytes, iloc: Box, items: dict[int, Item]) -> None:
    version = data[iloc.start]
    sizes = _number(data, iloc.start + 4, 2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    index_bytes = index_bytes if version in (1, 2) else 0
    wide = 4 if version == 2 else 2
    at = iloc.start + 6 + wide
    for _ in range(_number(data, at - wide, wide)):
        item = items.get(_number(data, at, wide)) or Item(0, b"", 0)
        at += wide
        base_at = at + (4 if version in (1, 2) else 2)  # behind the method and the number of another file
        item.method = _number(data, at, 2) & 15 if version in (1, 2) else 0
        base, num_extents = _number(data, base_at, base_bytes), _number(data, base_at + base_bytes, 2)
        item.located_at.append((at, base_at + base_bytes))
        at = base_at + base_bytes + 2
        for _ in range(num_extents):
            start = at + index_bytes
            item.extents.append((base + _number(data, start, offset_bytes), _number(data, start + offset_bytes, length_bytes)))
            item.located_at.append((at, at := start + offset_bytes + length_bytes))
        if at > iloc.end:
            raise ValueError("locations beyond their box")


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise ValueError("cut short")
    return int.from_bytes(data[at : at + size], "big")
