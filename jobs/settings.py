"""Settings: a flag, then PHOTOARK_*, then a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pipeline.codecs.registry import CodecOptions
from pipeline.errors import SettingError

DEFAULT_FILE = Path("photoark.toml")


class Settings(BaseSettings):
    """What can be set once for every command."""

    model_config = SettingsConfigDict(env_prefix="PHOTOARK_", extra="forbid")

    codec: str = "ditic-small"
    quality: int | None = Field(None, ge=1, le=100)
    """Of a classical codec."""
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    weights: Path | None = None
    """Frozen checkpoint of a neural codec; None for the one that comes with the package."""
    ray_address: str | None = None
    commit_interval_s: float = Field(5.0, gt=0)
    max_pixels: int = Field(200_000_000, gt=0)
    """Larger photos are kept as they are."""

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

    def codec_options(self) -> CodecOptions:
        """What the registry needs."""
        return CodecOptions(quality=self.quality, device=self.device, weights=self.weights)


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings with `flags` (None: not given) over the environment over the file.

    Args:
        config: TOML file; None for photoark.toml in the working directory, where there is one.

    Raises:
        SettingError: the file is missing, or a value is wrong.
    """
    if config is not None and not config.is_file():
        raise SettingError(f"--config {config}: no such file")
    file = config or DEFAULT_FILE

    class FromFile(Settings):
        model_config = SettingsConfigDict(env_prefix="PHOTOARK_", extra="forbid", toml_file=file)

    try:
        return FromFile(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SettingError(f"setting {name}: {first['msg']}") from error
    except ValueError as error:
        raise SettingError(f"{file} is no valid TOML: {error}") from error
