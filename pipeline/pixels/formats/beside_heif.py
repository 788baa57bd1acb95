"""What a HEIF or AVIF file holds beside its photo and that photo's metadata."""

from __future__ import annotations

from pipeline.pixels.formats import dropped, heif_items, unused
from pipeline.pixels.formats.heif_items import Item, Items
from pipeline.records import PhotoMetadata

_OUTER = frozenset({b"ftyp", b"styp", b"meta", b"mdat", b"free", b"skip"})
_INNER = frozenset({b"hdlr", b"pitm", b"iinf", b"iloc", b"iref", b"iprp", b"idat", b"dinf", b"grpl", b"free", b"skip"})
_PADDING = frozenset({b"free", b"skip"})
_PROPERTIES = frozenset(
    {b"ispe", b"pixi", b"colr", b"hvcC", b"av1C", b"irot", b"imir", b"pasp", b"lsel", b"a1op", b"a1lx", b"rloc", b"clli"}
)
_DEPTH_MAPS = (b"urn:mpeg:hevc:2015:auxid:2", b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth")


def more_than_picture(data: bytes, metadata: PhotoMetadata) -> str | None:
    """The first part that is left over, in words.

    Raises:
        ValueError: its boxes make no sense.
    """
    found = heif_items.read_items(data)
    if any(box.kind == b"mpvd" for box in found.outer):
        return "a film after the picture, as in motion photos"
    of_photo = _of_photo(found)
    beside = [item for number, item in found.items.items() if number not in of_photo and not _is_dropped(item, found)]
    if any(item.kind == b"tmap" or b"gainmap" in item.auxiliary.lower() for item in beside):
        return "an HDR gain map"
    if any(item.auxiliary in _DEPTH_MAPS for item in beside):
        return "a depth map"
    for item in beside:
        if not _travels(item, found, data, metadata):
            return f"another item beside it ({_text(item.auxiliary or item.kind)})"
    for kind in (kind for number in of_photo for kind in found.items[number].properties):
        # libheif crops, libavif leaves that to others.
        if kind not in _PROPERTIES and not (kind == b"clap" and b"hvcC" in data):
            return f"a property {_text(kind)} of the photo"
    return _other_boxes(found, data) or dropped.trailer(data[found.end :])


def _of_photo(found: Items) -> set[int]:
    """The photo's item and those that it is put together from."""
    items, new = set(), {found.primary}
    while new:
        items |= new
        new = {
            other for number in new if number in found.items for kind, other in found.items[number].ties if kind == b"dimg"
        } - items
    return items & found.items.keys()


def _is_dropped(item: Item, found: Items) -> bool:
    return any(dropped.is_in(dropped.HEIF_REFERENCES, kind) and other == found.primary for kind, other in item.ties)


def _travels(item: Item, found: Items, data: bytes, metadata: PhotoMetadata) -> bool:
    if any(kind == b"cdsc" and other != found.primary for kind, other in item.ties):
        return False
    content = heif_items.content_of(data, found, item)
    if content is None:
        return False
    if item.kind == heif_items.EXIF:
        return (heif_items.exif_in(content) or metadata.exif) == metadata.exif
    return item.is_xmp and content == (metadata.xmp or b"")


def _other_boxes(found: Items, data: bytes) -> str | None:
    for box in found.outer:
        if box.kind == b"sefd" and dropped.is_harmless_of_samsung(data[box.start : box.end]):
            continue
        if box.kind not in _OUTER or (box.kind in _PADDING and data[box.start : box.end].strip(b"\0")):
            return f"a box {_text(box.kind)} of {box.end - box.start} bytes"
    for box in found.inner:
        if box.kind not in _INNER or (box.kind in _PADDING and data[box.start : box.end].strip(b"\0")):
            return f"a box {_text(box.kind)} among its items"
    for box in found.unused_properties:
        if box.kind not in _PROPERTIES and data[box.start : box.end].strip(b"\0"):
            return f"a property {_text(box.kind)} that no item has"
    num_bytes = _unused_bytes(found, data)
    return f"{num_bytes} bytes that no item refers to" if num_bytes else None


def _unused_bytes(found: Items, data: bytes) -> int:
    """How many bytes of content no item refers to, beside padding."""
    used: list[tuple[int, int]] = []
    for item in found.items.values():
        base = found.idat if item.method else 0
        if item.method <= 1:
            used += [(base + at, base + at + length if length else len(data)) for at, length in item.extents]
    contents = [box for box in (*found.outer, *found.inner) if box.kind in (b"mdat", b"idat")]
    return sum(unused.content(data, used, start=box.start, end=box.end) for box in contents)


def _text(kind: bytes) -> str:
    return kind.decode("ascii", errors="backslashreplace")
