"""What an encode job has to do: the photos of its source that its archive lacks, and those that changed.

Rows of the archive pass by once, a shard at a time; of each photo that needs no work nothing is kept.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.archive.reader import Archive
from pipeline.archive.references import holds
from pipeline.archive.versions import SourceVersion, difference, reason_of, version_of
from pipeline.records import EncodedPhoto, Outcome, Photo


@dataclass(slots=True, kw_only=True)
class Work:
    """What there is to do."""

    todo: dict[str, Photo]
    """By key, in the order of the source; who does the work takes out what is done."""
    seen: dict[str, SourceVersion] = field(default_factory=dict)
    """Key -> the version that the archive's row tells of, of all of `todo` that have a row."""
    encode_anyway: set[str] = field(default_factory=set)
    """Keys of `seen` that are encoded even if their bytes are those of the row: it is a failure, or of another recipe."""
    recoding: dict[str, int] = field(default_factory=dict)
    """Keys of `encode_anyway` whose photos did not change -> how many rows share their streams, and get the new ones too."""
    holders: dict[str, str] = field(default_factory=dict)
    """SHA-256 -> key of a row whose stream a photo of `todo` may share."""
    not_stored: dict[str, str] = field(default_factory=dict)
    """Key -> reason, of photos whose rows are failures; those of `todo` among them are tried again."""
    other_recipes: Counter[str] = field(default_factory=Counter)
    """Recipe, or codec where a row records none -> rows that the job would make otherwise, those of `recoding` included."""
    num_unknown_recipe: int = 0
    """Rows that record no recipe and whose codec is the job's."""
    num_unchanged: int = 0
    num_gone: int = 0
    """Rows whose photos the source no longer has; they stay."""
    gone_failures: dict[str, str] = field(default_factory=dict)
    """Key -> reason, of those of them that are failures: there is nothing left to store."""
    stored_meanwhile: dict[str, EncodedPhoto] = field(default_factory=dict)
    """Key -> row of another job that took the place of one of ours, or left it out; filled in by commits."""

    def known_sha256(self, key: str) -> str | None:
        """SHA-256 of a photo that, if it still has the same bytes, need not be encoded again."""
        version = None if key in self.encode_anyway else self.seen.get(key)
        return version and version.sha256


def find_work(
    photos: list[Photo],
    archive: Archive | None,
    *,
    is_gone: Callable[[str], bool] = lambda _: True,
    checksum: bool = False,
    may_share: Callable[[EncodedPhoto], bool] = lambda _: False,
    made: Callable[[EncodedPhoto], bool | None] = lambda _: True,
    recode: bool = False,
) -> Work:
    """Compare every row of `archive` (None: there is none yet) with its photo.

    Args:
        is_gone: whether the source lacks a file of this key, which is not among `photos` and may have been left out of them.
        checksum: photos that look unchanged are to be read, and their SHA-256 decides.
        may_share: whether photos of the same bytes may share the stream of a row.
        made: whether the job would make the same row (`pipeline.encode.recipe.Recipe.made`).
        recode: encode photos again whose rows it would make otherwise.

    Raises:
        ArchiveDamagedError: a shard is missing or damaged.
    """
    work = Work(todo={})
    left = {photo.key: photo for photo in photos}
    sizes = array("q")
    sharing: dict[str, tuple[str, SourceVersion]] = {}
    for row in archive.sources() if archive else ():
        photo = left.pop(row.key, None)
        is_changed = photo is not None and difference(row, photo) is not None
        is_other = photo is not None and not is_changed and _is_other(work, row, made)
        if photo is None:
            if is_gone(row.key):
                work.num_gone += 1
                if row.outcome is Outcome.FAILED:
                    work.gone_failures[row.key] = reason_of(row)
        elif recode and is_other and row.same_as is not None:
            sharing[photo.key] = row.same_as, _version(row, photo)
        elif recode and is_other:
            _recode(work, photo.key, _version(row, photo))
        elif is_changed or (checksum and row.source_sha256 is not None):
            work.seen[photo.key] = _version(row, photo)
            if is_changed and row.outcome is Outcome.FAILED:
                work.encode_anyway.add(photo.key)
        else:
            work.num_unchanged += 1
        if photo is not None and row.outcome is Outcome.FAILED:
            work.not_stored[photo.key] = reason_of(row)
        sha256 = row.source_sha256
        if sha256 and sha256 not in work.holders and not is_changed and holds(row, sha256) and may_share(row):
            work.holders[sha256] = photo.key if photo is not None else row.key
            sizes.append(row.source_bytes)
    for key, (holder, version) in sharing.items():
        if holder in work.recoding:
            work.recoding[holder] += 1
        else:  # its holder's photo is gone or changed
            _recode(work, key, version)
    work.todo = {photo.key: photo for photo in photos if photo.key in left or photo.key in work.seen}
    # The same bytes are as many bytes.
    wanted = {photo.size_bytes for photo in work.todo.values()}
    work.holders = {sha: key for (sha, key), size in zip(work.holders.items(), sizes, strict=True) if size in wanted}
    return work


def count_stored_meanwhile(work: Work, made: Callable[[EncodedPhoto], bool | None]) -> None:
    """Take the rows `work.stored_meanwhile` into account in `work.other_recipes`.

    Args:
        made: as for `find_work`.
    """
    for row in work.stored_meanwhile.values():
        if row.outcome is not Outcome.FAILED:
            _is_other(work, row, made)


def _is_other(work: Work, row: EncodedPhoto, made: Callable[[EncodedPhoto], bool | None]) -> bool:
    """Whether another recipe made `row`; takes it into account."""
    is_same = row.outcome is Outcome.FAILED or made(row)
    work.num_unknown_recipe += is_same is None
    if is_same is False:
        work.other_recipes[row.recipe or row.codec or "unknown"] += 1
    return is_same is False


def _recode(work: Work, key: str, version: SourceVersion) -> None:
    work.seen[key] = version
    work.encode_anyway.add(key)
    work.recoding[key] = 0


def _version(row: EncodedPhoto, photo: Photo) -> SourceVersion:
    """The version that `row` tells of; of what is the same as in `photo`, there is one copy in memory."""
    version = version_of(row)
    is_same = {name: getattr(version, name) == getattr(photo, name) for name in ("size_bytes", "etag", "modified_at")}
    return version._replace(**{name: getattr(photo, name) for name, same in is_same.items() if same})
