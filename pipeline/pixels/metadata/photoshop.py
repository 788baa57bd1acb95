"""Photoshop's image resources, which JPEG, PNG and TIFF hold. Source: Adobe, "Photoshop File Formats"."""

from __future__ import annotations

import struct

IPTC = 1028
_SIGNATURES = (b"8BIM", b"PHUT", b"AgHg", b"DCSR", b"MeSa")
"""Photoshop's own, and those of ImageReady, PhotoDeluxe and others, which may stand between them."""


def resources(block: bytes) -> tuple[list[tuple[bytes, int, bytes]], bytes]:
    """Signature, number and content of each resource, and what follows the last one that is whole."""
    found, at = [], 0
    while block[at : at + 4] in _SIGNATURES and at + 7 <= len(block):
        signature, number = struct.unpack_from(">4sH", block, at)
        size_at = at + 6 + ((block[at + 6] + 2) & ~1)  # behind a name, counted and padded
        if size_at + 4 > len(block):
            break
        (size,) = struct.unpack_from(">I", block, size_at)
        start = size_at + 4
        if start + size > len(block):
            break
        found.append((signature, number, block[start : start + size]))
        at = start + size + (size & 1)
    return found, block[at:]
