"""What a decode job is: archive, destination, and which photos come back how."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.codecs.registry import CodecOptions, check_weights
from pipeline.errors import SettingError
from pipeline.on_ray.resources import DEFAULT_POOL, PoolOptions
from pipeline.patterns import EVERY_KEY, KeyPatterns
from pipeline.pixels.formats.writer import WRITABLE_FORMATS


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeJob:
    """What to restore, and where to."""

    archive: str
    destination: str
    patterns: KeyPatterns = EVERY_KEY
    """Which of its keys."""
    format: str | None = None
    """Container of every restored file (Pillow's name); None for the source's own."""
    original: bool = False
    """Hand out the source files' own bytes, where they were stored, instead of what is decoded."""
    resume: bool = False
    """Leave files alone that the same job wrote earlier. Such a file has the photo's time of change or, on a store, which gives
    a file its own, is younger than the row."""
    overwrite: bool = False
    """Replace other files that are where photos are restored to; without it, they stop the job before it begins."""
    options: CodecOptions = CodecOptions()
    batch_photos: int = 32
    pool: PoolOptions = DEFAULT_POOL

    def check_settings(self) -> None:
        """Check what needs no network; loads neither Ray nor torch.

        Raises:
            SettingError: no file of this format can be written.
            CheckpointError: the weights that are named are missing, or of another format.
        """
        if self.format is not None and self.format not in WRITABLE_FORMATS:
            raise SettingError(f"--format {self.format}: choose one of {', '.join(sorted(WRITABLE_FORMATS))}")
        check_weights(self.options)
