"""Photos as files below a folder or a prefix."""

from __future__ import annotations

from pipeline.errors import SettingError
from pipeline.records import Photo
from pipeline.sources.companions import with_companions
from pipeline.storage import Storage

_LOG_FOLDER = "_delta_log/"


def list_photos(source: str) -> list[Photo]:
    """Every file below `source`, sorted by key; files that are no images become rows that say so.

    An archive inside the source is left out: it is known by its log. So are files whose name starts with a dot.

    Raises:
        SettingError: there is no such folder.
        StorageError: it cannot be listed.
    """
    storage = Storage(source)
    if not storage.exists():
        raise SettingError(f"{storage.url} does not exist: name a folder of photos, or a bucket and prefix")
    photos: list[Photo] = []
    archives: set[str] = set()
    for f in storage.list():
        if _LOG_FOLDER in f.path:
            archives.add(f.path.split(_LOG_FOLDER)[0])
        elif not f.path.rpartition("/")[2].startswith("."):
            photos.append(Photo(key=f.path, uri=f.uri, size_bytes=f.size_bytes, modified_at=f.modified_at, etag=f.etag))
    if archives:
        photos = [photo for photo in photos if not photo.key.startswith(tuple(archives))]
    photos.sort(key=lambda photo: photo.key)
    return with_companions(photos)
