"""Small photos in folders, and what a listing came to."""

from __future__ import annotations

from pathlib import Path

from pipeline.sources.folder import Listing
from tests.cases.tiny import png


def write_photos(folder: Path, *keys: str) -> None:
    """Write a PNG of 8 x 8 pixels, of another colour each, under every key."""
    for i, key in enumerate(keys):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))


def keys_of(listing: Listing) -> list[str]:
    """Keys of the files that are taken."""
    return [photo.key for photo in listing.photos]


def skips_of(listing: Listing) -> dict[str, int]:
    """Reason -> entries that were left out for it."""
    return {skipped.reason.value: skipped.num_entries for skipped in listing.skipped}
