"""Every codec by name. One dictionary; heavy imports happen when a codec is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.codecs.base import Codec
from pipeline.errors import SettingError, UnknownModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecOptions:
    """What a codec may be told."""

    quality: int | None = None
    """Of a classical codec, 1 to 100."""
    device: str = "auto"
    """Of a neural codec: auto, cpu or cuda."""
    weights: Path | None = None
    """Frozen checkpoint of a neural codec; None for the one that comes with the package."""


DEFAULT_OPTIONS = CodecOptions()


def codec_names() -> list[str]:
    """Names that `get_codec` takes."""
    return list(_CODECS)


def get_codec(name: str, options: CodecOptions = DEFAULT_OPTIONS) -> Codec:
    """Make a codec.

    Raises:
        SettingError: no codec of this name, or an option that it cannot take.
        CheckpointError: its weights are missing or damaged.
    """
    if name not in _CODECS:
        raise SettingError(f"no codec is called {name!r}; choose one of {', '.join(_CODECS)}")
    return _CODECS[name](name, options)


def check_codec(name: str, options: CodecOptions = DEFAULT_OPTIONS) -> None:
    """Raise what `get_codec` would, without building the network.

    Raises:
        SettingError: no codec of this name, or an option that it cannot take.
        CheckpointError: its weights are missing or damaged.
    """
    if name == "ditic-small":
        from pipeline.codecs.ditic import checkpoint

        _check_ditic(name, options)
        checkpoint.check(options.weights or checkpoint.SHIPPED)
    else:
        get_codec(name, options)


def decoder_for(name: str, model: str | None, options: CodecOptions = DEFAULT_OPTIONS) -> Codec:
    """The codec that decodes an archive row.

    Args:
        model: fingerprint from the row.

    Raises:
        UnknownModelError: the codec or the weights are not installed.
    """
    if name not in _CODECS:
        raise UnknownModelError(f"the photo was encoded with {name!r}, which this program does not know: update it")
    codec = get_codec(name, options)
    if model is not None and codec.info.model != model:
        raise UnknownModelError(
            f"the photo needs {name} with weights {model}; installed is {codec.info.model}: name the right file (--weights)"
        )
    return codec


def _classical(name: str, options: CodecOptions) -> Codec:
    from pipeline.codecs.classical import PillowCodec

    return PillowCodec(name, quality=options.quality)


def _original(name: str, options: CodecOptions) -> Codec:
    from pipeline.codecs.original import OriginalCodec

    return OriginalCodec()


def _ditic(name: str, options: CodecOptions) -> Codec:
    from pipeline.codecs.ditic import checkpoint
    from pipeline.codecs.ditic.codec import DiTICCodec
    from pipeline.codecs.ditic.device import choose_device

    _check_ditic(name, options)
    return DiTICCodec.load(options.weights or checkpoint.SHIPPED, device=choose_device(options.device))


def _check_ditic(name: str, options: CodecOptions) -> None:
    if options.quality is not None:
        raise SettingError(f"{name} codes at one quality; leave --quality out, or choose a classical codec")


_CODECS: dict[str, Callable[[str, CodecOptions], Codec]] = {
    "ditic-small": _ditic,
    "avif": _classical,
    "webp": _classical,
    "jxl": _classical,
    "original": _original,
}
