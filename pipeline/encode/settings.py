"""How photos are encoded: what a job tells its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.codecs.base import Codec, Pixels
from pipeline.codecs.points import CodecAt, codecs_at
from pipeline.codecs.registry import SHIPPED_CODEC, CodecOptions
from pipeline.encode.recipe import Recipe, recipe_of
from pipeline.errors import CheckpointError, SettingError
from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.sandbox.client import read_pixels
from pipeline.quality.gate import NO_GATE, Gate
from pipeline.records import KeepOriginal

if TYPE_CHECKING:
    from pipeline.quality.scorer import Scorer

MakeCodecs = Callable[[Iterable[CodecAt], CodecOptions], Iterable[Codec]]
"""Makes the codec of each rung in turn."""
ReadPixels = Callable[..., Pixels]
"""`pipeline.pixels.sandbox.client.read_pixels`, or what stands for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """What an encode worker needs to know."""

    ladder: tuple[CodecAt, ...] = (CodecAt(SHIPPED_CODEC),)
    """Codecs to try in turn; what none of them may stand for is kept as its bytes."""
    gate: Gate = NO_GATE
    """What a decoded stream must reach; without one, streams are not decoded."""
    lpips_weights: Path | None = None
    """For a gate that asks for LPIPS."""
    dists_weights: Path | None = None
    """For a gate that asks for DISTS."""
    keep_original: KeepOriginal = KeepOriginal.KEPT
    strip_gps: bool = False
    """Leave GPS data out; bytes that may hold some are then not kept."""
    options: CodecOptions = CodecOptions()
    """Of all rungs but for the quality."""
    limits: PixelLimits = DEFAULT_LIMITS
    num_decode_threads: int = 2
    """Threads that decode pixels."""
    codecs: MakeCodecs = codecs_at
    """Makes the codecs of the ladder; other than the registry's for who measures a pipeline without them."""
    read_pixels: ReadPixels = read_pixels
    """Decodes a file; another one for who measures a pipeline without the cores that this takes."""

    def recipe(self) -> Recipe:
        """What rows record of these settings.

        Raises:
            SettingError: an option that a codec cannot take.
            CheckpointError: weights are missing or of another format.
        """
        return recipe_of(self.ladder, self.options, gate=self.gate, keep=self.keep_original, strip_gps=self.strip_gps)

    def check_gate(self) -> None:
        """Check that the gate's metrics have the weights that they need; loads neither them nor torch.

        Raises:
            SettingError: the weights of a metric are not named.
            CheckpointError: their file is missing.
        """
        for name, weights in (("lpips", self.lpips_weights), ("dists", self.dists_weights)):
            if name not in self.gate.metrics:
                continue
            if weights is None:
                raise SettingError(f"{name} needs weights: name their file with --{name}-weights")
            if not weights.is_file():
                raise CheckpointError(f"{weights} does not exist: name the file with the weights of {name}")

    def scorer(self) -> Scorer | None:
        """What measures for the gate; None without one.

        Raises:
            SettingError: it asks for a metric whose weights are not named.
            CheckpointError: these weights are missing or damaged.
        """
        if not self.gate:
            return None
        from pipeline.codecs.neural.device import choose_device
        from pipeline.quality.scorer import Scorer

        return Scorer(
            lpips_weights=self.lpips_weights,
            dists_weights=self.dists_weights,
            device=choose_device(self.options.device),
            only=self.gate.metrics,
        )
