"""What an encode job is: source, archive, and how to encode. Checking it loads neither Ray nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.archive.reader import Archive
from pipeline.codecs.points import CodecAt, codecs_at
from pipeline.codecs.registry import SHIPPED_CODEC, CodecOptions, codec_names, is_generative, uses_gpu
from pipeline.encode.changes import Work, find_work
from pipeline.encode.settings import EncodeSettings, MakeCodecs, ReadPixels
from pipeline.errors import SettingError
from pipeline.on_ray.resources import DEFAULT_POOL, PoolOptions
from pipeline.pixels.formats.probe import DEFAULT_LIMITS, PixelLimits
from pipeline.pixels.sandbox.client import read_pixels
from pipeline.quality.gate import NO_GATE, Gate
from pipeline.records import EncodedPhoto, KeepOriginal
from pipeline.sources.folder import Listing
from pipeline.sources.selection import DEFAULT_SELECTION, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """What to encode, where to, and how."""

    source: str
    archive: str
    codec: str = SHIPPED_CODEC
    options: CodecOptions = CodecOptions()
    ladder: tuple[CodecAt, ...] = ()
    """Codecs to try in turn, instead of `codec` alone."""
    gate: Gate = NO_GATE
    """What a decoded stream must reach to stand for its photo."""
    lpips_weights: Path | None = None
    """For a gate that asks for LPIPS."""
    dists_weights: Path | None = None
    """For a gate that asks for DISTS."""
    keep_original: KeepOriginal = KeepOriginal.KEPT
    """When a photo's own bytes are stored."""
    strip_gps: bool = False
    """Leave GPS data out."""
    limits: PixelLimits = DEFAULT_LIMITS
    selection: Selection = DEFAULT_SELECTION
    """Which files of the source to take."""
    checksum: bool = False
    """Read photos that look unchanged too: their SHA-256 decides."""
    dedupe: bool = False
    """Let photos of the same bytes share the stream of the first of them; streams of earlier jobs by the same recipe too."""
    recode: bool = False
    """Encode photos again whose rows another recipe made; each row is replaced in one commit, and stays where that fails."""
    commit_interval_s: float = 10.0
    """What an actor begins is committed when so much time is over, and so a job that dies repeats no more of each actor's work.
    Blocks are made to take half of it, with a codec of the usual speed (`PoolPlan.block_bytes`)."""
    block_photos: int | None = None
    """None: as many as suit the pool, `MAX_BLOCK_PHOTOS` at most."""
    block_bytes: int = 32 << 20
    """At most so many source bytes travel to an actor at once; fewer with a short `commit_interval_s`."""
    pool: PoolOptions = DEFAULT_POOL
    codecs: MakeCodecs = codecs_at
    """Makes the codecs of the ladder; other than the registry's for who measures a pipeline without them."""
    read_pixels: ReadPixels = read_pixels
    """As of `EncodeSettings`."""

    def __post_init__(self) -> None:
        if self.codec not in codec_names():
            raise SettingError(f"no codec is called {self.codec!r}; choose one of {', '.join(codec_names())}")
        if self.keep_original is KeepOriginal.NEVER and self.rungs[-1].codec == "original":
            raise SettingError("--keep-original never forbids what the codec `original` does: leave one of them out")
        if self.strip_gps and self.keep_original is KeepOriginal.ALWAYS:
            raise SettingError("--keep-original always stores GPS data, which --strip-gps leaves out: leave one of them out")

    @property
    def rungs(self) -> tuple[CodecAt, ...]:
        """The ladder, which may have one rung."""
        return self.ladder or (CodecAt(self.codec, self.options.quality),)

    @property
    def generative_codecs(self) -> tuple[str, ...]:
        """Those of its codecs that synthesise detail."""
        return tuple(dict.fromkeys(rung.codec for rung in self.rungs if is_generative(rung.codec)))

    @property
    def is_neural(self) -> bool:
        """Whether one of its codecs can use a GPU."""
        return any(uses_gpu(rung.codec) for rung in self.rungs)

    @property
    def device(self) -> str:
        """Where its codecs run; codecs that use no GPU need no actor that holds one."""
        return self.options.device if self.is_neural else "cpu"

    def settings(self) -> EncodeSettings:
        """What a worker needs to know of it."""
        return EncodeSettings(
            ladder=self.rungs,
            gate=self.gate,
            lpips_weights=self.lpips_weights,
            dists_weights=self.dists_weights,
            keep_original=self.keep_original,
            strip_gps=self.strip_gps,
            options=self.options,
            limits=self.limits,
            codecs=self.codecs,
            read_pixels=self.read_pixels,
        )

    def find_work(self, listing: Listing, archive: Archive | None) -> Work:
        """What there is to do: as `pipeline.encode.changes.find_work`."""
        recipe = self.settings().recipe()
        # Where a row of an earlier version does not tell its recipe, at least nothing is known that it lacks.
        is_plain = not self.gate and not self.strip_gps and self.keep_original is KeepOriginal.KEPT

        def may_share(row: EncodedPhoto) -> bool:
            made = recipe.made(row)
            return is_plain if made is None else made

        return find_work(
            listing.photos, archive, is_gone=listing.lacks, checksum=self.checksum,
            may_share=may_share if self.dedupe else lambda _: False, made=recipe.made, recode=self.recode,
        )  # fmt: skip

    def check_settings(self) -> None:
        """Check what needs no network: names, qualities, and that files are there. Loads neither Ray nor torch.

        Raises:
            SettingError: a codec or one of its options is wrong, or the gate needs weights that are not named.
            CheckpointError: weights are missing, or of another format.
        """
        for rung in self.rungs if self.codecs is codecs_at else ():
            rung.check_options(self.options)
        self.settings().check_gate()

    def check(self) -> None:
        """Raise what a worker's constructor would; loads torch where a codec or the gate needs it.

        Raises:
            SettingError: a codec or one of its options is wrong.
            CheckpointError: weights are missing or damaged.
        """
        for rung in self.rungs if self.codecs is codecs_at else ():
            rung.check(self.options)
        self.settings().scorer()
