"""What a TIFF holds beside its picture, its metadata, and what is safe to drop."""

from __future__ import annotations

import struct

from pipeline.pixels.formats import dropped, tiff, unused
from pipeline.pixels.formats.beside_jpeg import more_than_iptc
from pipeline.records import PhotoMetadata

_EXIF, _GPS, _INTEROPERABILITY = 0x8769, 0x8825, 0xA005
_CARRIED = frozenset({(0, _EXIF), (0, _GPS), (_EXIF, _INTEROPERABILITY)})
"""Directories that travel: the tag that names one, and that of the directory which holds the tag (0: the first)."""
_DIRECTORY_TYPES = frozenset({13, 18})
_LAYERS = 37724
_MAX_PAGES = 10_000
# Offsets of pieces of pixels, and the tags of their lengths.
_PIECES = ((273, 279), (324, 325), (513, 514))


def num_pages(data: bytes) -> int:
    """How many directories follow each other, each a page or a smaller copy."""
    order = tiff.byte_order(data)
    assert order is not None
    seen: set[int] = set()
    (at,) = struct.unpack_from(order + "I", data, 4)
    while at and at not in seen and at + 2 <= len(data) and len(seen) < _MAX_PAGES:
        seen.add(at)
        (num_entries,) = struct.unpack_from(order + "H", data, at)
        end = at + 2 + 12 * num_entries
        at = struct.unpack_from(order + "I", data, end)[0] if end + 4 <= len(data) else 0
    return max(1, len(seen))


def more_than_picture(data: bytes, metadata: PhotoMetadata) -> str | None:
    """The first part that is left over, in words.

    Raises:
        ValueError: entries of a directory overlap.
    """
    order = tiff.byte_order(data)
    assert order is not None
    used = [(0, tiff.HEADER_BYTES)]
    pending = [(0, struct.unpack_from(order + "I", data, 4)[0])]
    done: set[int] = set()
    while pending:
        owner, at = pending.pop()
        if at in done or at + 2 > len(data):
            return "a directory that lies outside the file, or that two tags name"
        done.add(at)
        (num_entries,) = struct.unpack_from(order + "H", data, at)
        used.append((at, at + 2 + 12 * num_entries + 4))
        entries = tiff.read_directory(data, at, order)
        if len(entries) < _num_filled(data, at, order):
            return "damaged tags"
        for entry in entries:
            used.append((entry.start, entry.start + len(entry.value)))
            if (owner, entry.tag) in _CARRIED and len(entry.value) == 4:
                pending.append((entry.tag, struct.unpack(order + "I", entry.value)[0]))
            elif entry.tag in tiff.SUB_DIRECTORIES or entry.kind in _DIRECTORY_TYPES:
                return f"a directory in tag {entry.tag}"
            elif entry.tag == _LAYERS:
                return "Photoshop's layers (tag 37724)"
        if not owner:
            used += _pixels({entry.tag: entry for entry in entries}, order)
    resources = tiff.block_of(data, tiff.PHOTOSHOP)
    reason = more_than_iptc(resources, metadata) if resources else None
    if reason := reason or dropped.trailer(data[max(end for _, end in used) :]):
        return reason
    num_bytes = unused.content(data, used, end=max(end for _, end in used))
    (harmless_bytes,) = dropped.REPLACED.values()
    return f"{num_bytes} bytes that none of its tags refers to" if num_bytes > harmless_bytes else None


def _num_filled(data: bytes, at: int, order: str) -> int:
    """Entries that have any values, whatever they are."""
    (num_entries,) = struct.unpack_from(order + "H", data, at)
    counts = [
        struct.unpack_from(order + "I", data, place + 4)[0] if place + 12 <= len(data) else 1
        for place in range(at + 2, at + 2 + 12 * num_entries, 12)
    ]
    return sum(count > 0 for count in counts)


def _pixels(entries: dict[int, tiff.Entry], order: str) -> list[tuple[int, int]]:
    """Where the pieces of the picture start and end."""
    found = []
    for offsets, lengths in _PIECES:
        if offsets in entries and lengths in entries:
            pairs = zip(tiff.numbers(entries[offsets], order), tiff.numbers(entries[lengths], order), strict=False)
            found += [(offset, offset + length) for offset, length in pairs]
    return found
