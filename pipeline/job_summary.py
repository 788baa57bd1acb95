"""What a job came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.records import Skipped


@dataclass(slots=True, kw_only=True)
class JobSummary:
    """What a job came to."""

    num_photos: int = 0
    """In the source (or in the archive, when decoding)."""
    num_skipped: int = 0
    """Already there, and unchanged."""
    num_left_out: int = 0
    """When decoding: photos of the archive that the patterns leave out; not in `num_photos`."""
    num_new: int = 0
    """Encoded, kept or failed, that had no row before."""
    num_changed: int = 0
    """Likewise, in place of a row of an earlier version; where it failed, a row that was no failure stays as it is."""
    num_recoded: int = 0
    """Encoded again because another recipe had made their rows; where it failed, the row stays as it is."""
    num_other_recipe: int = 0
    """Rows that another recipe made, at the end of the job."""
    other_recipes: dict[str, int] = field(default_factory=dict)
    """Recipe, or codec where a row records none -> rows that this job would have made otherwise, at its start."""
    num_unknown_recipe: int = 0
    """Rows that record no recipe, as in archives of earlier versions, and whose codec is this job's."""
    num_updated: int = 0
    """Whose bytes are the same, and only what the row says of the source was not."""
    num_gone: int = 0
    """Rows whose photos the source no longer has; they stay."""
    gone_failures: dict[str, str] = field(default_factory=dict)
    """Key -> reason, of rows that are failures and whose files the source no longer has; `retry` takes these rows out."""
    num_stored_meanwhile: int = 0
    """Photos that another job stored while this one encoded them; its rows stay, and this job's count nowhere else."""
    num_encoded: int = 0
    codecs: dict[str, int] = field(default_factory=dict)
    """Codec -> how many of the encoded photos its streams stand for."""
    num_kept: int = 0
    num_shared: int = 0
    """That share the stream of a photo of the same bytes."""
    num_restored: int = 0
    num_failed: int = 0
    num_unwritten: int = 0
    """When decoding: of the photos that failed, those that could not be written."""
    bytes_in: int = 0
    bytes_stored: int = 0
    """Of `bytes_in`, those of the files that were encoded, kept or share a stream, and became `bytes_out`."""
    bytes_out: int = 0
    num_pixels: int = 0
    elapsed_s: float = 0.0
    stopped: bool = False
    """Whether it ended before all was done because it was told to."""
    skipped: tuple[Skipped, ...] = ()
    """What the listing of the source left out, by reason; entries of a reason that is not harmless may have been photos."""
    num_outdated: int = 0
    """Of the photos that failed, those of which the archive keeps an earlier version."""
    examples: list[str] = field(default_factory=list)
    """Keys of a few of the encoded photos, spread over the job."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(key, reason) of each photo that failed in this job."""
    not_stored: dict[str, str] = field(default_factory=dict)
    """Key -> reason, of photos of the source of which the archive holds nothing: they failed in this job or an earlier one."""

    @property
    def is_complete(self) -> bool:
        """Whether every photo is stored, or restored, and no folder of the source was unreadable."""
        is_all_listed = all(skipped.reason.is_harmless for skipped in self.skipped)
        return is_all_listed and not (self.num_failed or self.not_stored)

    def fail(self, key: str, reason: str) -> None:
        """Count a failure."""
        self.num_failed += 1
        self.failures.append((key, reason))
