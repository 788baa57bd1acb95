"""Settings: a flag, then PHOTOARK_*, then a TOML file."""

from __future__ import annotations

import os
import uuid
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pipeline.codecs.neural.runtime import Runtime
from pipeline.codecs.registry import SHIPPED_CODEC, CodecOptions
from pipeline.errors import SettingError
from pipeline.on_ray.resources import Market, PoolOptions
from pipeline.records import KeepOriginal
from pipeline.sources.selection import Selection

if TYPE_CHECKING:
    from pipeline.pixels.formats.probe import PixelLimits

DEFAULT_FILE = Path("photoark.toml")
_PREFIX = "PHOTOARK_"
_LIKE = 0.8
"""Ratio of letters from which on one name is taken for a misspelling of another."""


class Settings(BaseSettings):
    """What can be set once for every command."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid")

    codec: str = SHIPPED_CODEC
    quality: int | None = Field(None, ge=1, le=100)
    """Of a classical codec 1 to 100, of ditic-small 1 to 4."""
    gate: str | None = None
    """What a decoded stream must reach to stand for its photo: ms_ssim=0.95,psnr=24."""
    ladder: str | None = None
    """Codecs to try in turn, instead of `codec`: ditic-small:3,avif:60,original."""
    include: tuple[str, ...] = ()
    """Of a source, only files whose keys match one of these patterns; * crosses slashes. `decode` and `ls` do not ask."""
    exclude: tuple[str, ...] = ()
    """Of a source, no files whose keys match one of these patterns."""
    photos_only: bool = False
    """Leave out files of a source that are no photos, instead of keeping their bytes."""
    default_excludes: bool = True
    """Leave out thumbnails, bins and desktop files (`pipeline.sources.selection.DEFAULT_EXCLUDES`)."""
    strip_gps: bool = False
    """Leave GPS data out of what is stored; a photo whose bytes would have to be kept and may hold some fails."""
    lpips_weights: Path | None = None
    """State dict of lpips.LPIPS, for a gate that asks for lpips."""
    dists_weights: Path | None = None
    """State dict of DISTS_pytorch.DISTS, for a gate that asks for dists."""
    keep_original: KeepOriginal = KeepOriginal.KEPT
    """When a photo's own bytes are stored: never, kept (where no codec may stand for it) or always (beside each stream)."""
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    weights: Path | None = None
    """Frozen checkpoint of a neural codec; None for the one that comes with the package."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of a neural codec's float networks; what a stream holds does not depend on it."""
    int8_weights: bool = False
    """Keep a neural codec's weights as 8-bit integers: less memory, a little slower."""
    compile: bool = False
    """Compile a neural codec's kernels for the shapes that occur most: minutes at the start of a job, faster then."""
    memory_gib: float | None = Field(None, gt=0)
    """What a neural codec may use beside its weights; larger photos go in tiles. None: what is free."""
    ray_address: str | None = None
    max_gpus: int | None = Field(None, ge=0)
    """GPUs that the cluster may grow to: its autoscaler does not tell. None: those that it has."""
    gpus_per_actor: float = Field(1.0, gt=0, le=1)
    """Below 1 puts several actors on one GPU, for small models; `memory_gib` then says what each may use."""
    market: Market = Market.ANY
    """Machines that actors run on, by the label ray.io/market-type: any, spot-first, spot or on-demand."""
    max_hours: float | None = Field(None, gt=0)
    """After so long a job commits what is finished and stops."""
    max_cost: float | None = Field(None, gt=0)
    """The same, once its machines have cost so much."""
    price_per_hour: float | None = Field(None, gt=0)
    """Of a GPU or, on machines without, of a machine; in any currency."""
    log_format: Literal["text", "json"] = "text"
    """json: a line for each thing that happens, on standard error, or in `log_file`, which makes them JSON by itself."""
    log_file: Path | None = None
    log_level: Literal["debug", "info", "warning"] = "info"
    job: str = Field(default_factory=lambda: uuid.uuid4().hex[:12])
    """Name of the job in all its log lines; by default one that no other job has."""
    commit_interval_s: float = Field(10.0, gt=0)
    max_pixels: int = Field(200_000_000, gt=0)
    """Larger photos are kept as they are."""
    decoder_time_s: float = Field(30.0, gt=0)
    """What decoding one photo may take, beside a second for each megapixel; a photo that takes longer has failed."""
    decoder_memory_mib: int = Field(512, ge=64)
    """The same of memory, beside 32 bytes for each pixel."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags before environment before file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def wants_logs(self) -> bool:
        """Whether log lines are to be written."""
        return self.log_format == "json" or self.log_file is not None

    def pool_options(self) -> PoolOptions:
        """What the actor pool may take."""
        return PoolOptions(max_gpus=self.max_gpus, gpus_per_actor=self.gpus_per_actor, market=self.market)

    def selection(self) -> Selection:
        """Which files of a source to take."""
        return Selection(
            include=self.include, exclude=self.exclude, default_excludes=self.default_excludes, photos_only=self.photos_only
        )

    def limits(self) -> PixelLimits:
        """Bounds of what is decoded."""
        from pipeline.pixels.formats.probe import PixelLimits

        return PixelLimits(max_pixels=self.max_pixels, time_s=self.decoder_time_s, memory_bytes=self.decoder_memory_mib << 20)

    def codec_options(self) -> CodecOptions:
        """What the registry needs."""
        runtime = Runtime(
            dtype=self.precision,
            int8_weights=self.int8_weights,
            compile=self.compile,
            memory_bytes=None if self.memory_gib is None else int(self.memory_gib * 2**30),
        )
        return CodecOptions(quality=self.quality, device=self.device, weights=self.weights, runtime=runtime)


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings with `flags` (None or an empty list: not given) over the environment over the file.

    Args:
        config: TOML file; None for photoark.toml in the working directory, where there is one.

    Raises:
        SettingError: the file is missing, or a value is wrong.
    """
    if config is not None and not config.is_file():
        raise SettingError(f"--config {config}: no such file")
    file = config or DEFAULT_FILE
    _check_environment()

    class FromFile(Settings):
        model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", toml_file=file)

    try:
        return FromFile(**{name: value for name, value in flags.items() if value is not None and value != []})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise SettingError(f"{file}: {_unknown(name)}") from error
        raise SettingError(f"setting {name}: {first['msg']}") from error
    except ValueError as error:
        raise SettingError(f"{file} is no valid TOML: {error}") from error


def _unknown(name: str) -> str:
    close = get_close_matches(name, Settings.model_fields, n=1, cutoff=_LIKE)
    return f"there is no setting {name}" + (f"; did you mean {close[0]}?" if close else "; jobs/README.md lists them")


def _check_environment() -> None:
    """Refuse misspelt variables; others of the prefix pass, since Kubernetes sets some for a service of this name."""
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX).lower()
        if (
            variable.startswith(_PREFIX)
            and name not in Settings.model_fields
            and get_close_matches(name, Settings.model_fields, cutoff=_LIKE)
        ):
            raise SettingError(f"{variable}: {_unknown(name)}")
