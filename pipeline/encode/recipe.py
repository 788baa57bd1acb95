"""How a job encodes, as text that each row records: it tells whether another job would have made the same row of a file.

    encoded   ladder [gate=...] [keep=...] [strip-gps]      avif:60   ditic-small:3@a9cc03f4a08e03f4,avif:60 gate=ms_ssim=0.95
    kept      ladder [gate=...] [strip-gps]                 no rung could stand for the photo, or `original` was asked for
              any [strip-gps]                               no codec takes such a file (but see `Recipe.transcodes`)

A row holds only what it depends on, so that a job with another ladder does not encode again what no codec takes. So
`keep=always` is in every encoded row of such a job, and `keep=never` only in those whose file would otherwise have been kept.
Earlier versions left `keep=never` out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.codecs.points import CodecAt
from pipeline.codecs.registry import CodecOptions, signature, transcoded_formats
from pipeline.quality.gate import Gate
from pipeline.records import EncodedPhoto, KeepOriginal, Outcome

_ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What rows made by one job record."""

    encoded: str
    """Of a photo that a stream stands for."""
    instead_of_file: str
    """Likewise, where the file would stand if it might be kept: the stream is no smaller, or does not give the file back."""
    refused: str
    """Of a photo kept as its bytes because no rung of the ladder could stand for it, or `original` was asked for."""
    unsupported: str
    """Of a file kept as its bytes because no codec takes it."""
    keeps: bool
    """Whether files are kept as their bytes at all."""
    codecs: frozenset[tuple[str, str | None]]
    """Codec and model of each rung, for rows that record no recipe."""
    transcodes: frozenset[str]
    """Formats of files that a rung takes whole; others keep some of them as `unsupported`."""

    def made(self, row: EncodedPhoto) -> bool | None:
        """Whether this recipe makes `row`, which did not fail, of the same file.

        Returns:
            None if the row records no recipe, as in archives of earlier versions, and its codec and model do not tell.
        """
        if row.outcome is Outcome.KEPT and not self.keeps:
            return False
        if row.outcome is Outcome.KEPT and row.format in self.transcodes:
            return row.recipe == self.refused
        if row.recipe is None and row.outcome is Outcome.KEPT:
            # `original` alone keeps a file without a reason.
            return self.refused == "original" if row.reason is None else None
        if row.recipe is None:
            return None if (row.codec, row.model) in self.codecs else False
        if row.outcome is Outcome.KEPT:
            return row.recipe in (self.refused, self.unsupported)
        return row.recipe == self.encoded or (row.recipe == self.instead_of_file and not self.keeps)


def recipe_of(rungs: Sequence[CodecAt], options: CodecOptions, *, gate: Gate, keep: KeepOriginal, strip_gps: bool) -> Recipe:
    """The recipe of a job.

    Raises:
        SettingError, CheckpointError: as `pipeline.codecs.registry.check_options`.
    """
    signatures = [signature(rung.codec, rung.quality, options) for rung in rungs]
    # What no other rung may stand for is kept as its bytes anyway.
    named = signatures[:-1] if len(signatures) > 1 and signatures[-1].codec == "original" else signatures
    ladder = ",".join(map(str, named))
    gated = [f"gate={','.join(f'{name}={bound:g}' for name, bound in sorted(gate.bounds))}"] if gate else []
    kept_too = ["keep=always"] if keep is KeepOriginal.ALWAYS else []
    stripped = ["strip-gps"] if strip_gps else []
    return Recipe(
        instead_of_file=" ".join([ladder, *gated, "keep=never", *stripped]),
        encoded=" ".join([ladder, *gated, *kept_too, *stripped]),
        refused=" ".join([ladder, *gated, *stripped]),
        unsupported=" ".join([_ANY, *stripped]),
        keeps=keep is not KeepOriginal.NEVER,
        codecs=frozenset((found.codec, found.model) for found in signatures),
        transcodes=frozenset().union(*(transcoded_formats(found.codec, found.quality) for found in signatures)),
    )
