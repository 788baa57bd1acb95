"""Every codec by name. One dictionary; heavy imports happen when a codec is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.codecs.base import LOSSLESS_JXL, Codec
from pipeline.codecs.neural.runtime import DEFAULT_RUNTIME, Runtime
from pipeline.errors import SettingError, UnknownModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecOptions:
    """What a codec may be told."""

    quality: int | None = None
    """Of a classical codec, 1 to 100; of ditic-small, 1 to 4."""
    device: str = "auto"
    """Of a neural codec: auto, cpu or cuda."""
    weights: Path | None = None
    """Frozen checkpoint of a neural codec; None for the one that comes with the package, which is of ditic-small."""
    runtime: Runtime = DEFAULT_RUNTIME
    """How a neural codec runs."""


DEFAULT_OPTIONS = CodecOptions()
SHIPPED_CODEC = "ditic-small"
"""The neural codec whose weights come with the package."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a codec's streams depend on, apart from the photo."""

    codec: str
    quality: int | None
    """None where the codec has none."""
    model: str | None
    """Fingerprint of the weights; None for codecs without."""

    def __str__(self) -> str:
        quality = "" if self.quality is None else f":{self.quality}"
        return f"{self.codec}{quality}{f'@{self.model}' if self.model else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a person needs to choose a codec."""

    name: str
    qualities: tuple[int, int] | None
    """First and last; None where the codec has none, or its weights say."""
    usual_quality: int | None
    weights: str
    """Where they come from; empty for codecs without."""
    generative: bool
    what: str


def describe_codecs() -> list[Description]:
    """Describe every codec, without loading one."""
    return [_described(name) for name in _CODECS]


def codec_names() -> list[str]:
    """Names that `get_codec` takes."""
    return list(_CODECS)


def uses_gpu(name: str) -> bool:
    """Whether a codec may run on a GPU; unknown codecs are assumed to."""
    return _CODECS.get(name, _ditic) is _ditic


def is_generative(name: str) -> bool:
    """Whether a codec synthesises detail, as its `CodecInfo.generative` says, without making it."""
    return _CODECS.get(name) in _GENERATIVE


def transcoded_formats(name: str, quality: int | None) -> frozenset[str]:
    """Pillow's names of the formats whose files a codec takes whole (`pipeline.codecs.base.Transcoder`), without making it."""
    return frozenset({"JPEG", "MPO"}) if (name, quality) == ("jxl", LOSSLESS_JXL) else frozenset()


def get_codec(name: str, options: CodecOptions = DEFAULT_OPTIONS) -> Codec:
    """Make a codec.

    Raises:
        SettingError: no codec of this name, or an option that it cannot take.
        CheckpointError: its weights are missing or damaged.
    """
    if name not in _CODECS:
        raise SettingError(f"no codec is called {name!r}; choose one of {', '.join(_CODECS)}")
    return _CODECS[name](name, options)


def check_options(name: str, options: CodecOptions = DEFAULT_OPTIONS) -> None:
    """As `check_codec`, but for the content of weights, so that torch is not loaded.

    Raises:
        SettingError: no codec of this name, or an option that it cannot take.
        CheckpointError: its weights are of another format.
    """
    if _CODECS.get(name) is _ditic:
        from pipeline.codecs.ditic.header import config_of

        config_of(_ditic_weights(name, options)).check_quality(options.quality)
    else:
        get_codec(name, options)


def signature(name: str, quality: int | None, options: CodecOptions = DEFAULT_OPTIONS) -> Signature:
    """The signature of a codec at a quality (None: its usual one); torch is not loaded.

    Raises:
        SettingError: an option that it cannot take.
        CheckpointError: its weights are missing or of another format.
    """
    make = _CODECS.get(name)
    if make is _ditic:
        from pipeline.codecs.ditic.header import read_header

        header = read_header(_ditic_weights(name, options))
        return Signature(name, header.config.check_quality(quality), header.fingerprint)
    if make is _classical:
        from pipeline.codecs.classical import FORMATS

        return Signature(name, FORMATS[name].default_quality if quality is None else quality, None)
    return Signature(name, quality, None)


def check_weights(options: CodecOptions) -> None:
    """Check that the weights which `options` name can be used, by whatever codec they are; torch is not loaded.

    Raises:
        SettingError: their file does not exist.
        CheckpointError: they are of another format.
    """
    if options.weights is not None:
        if not options.weights.is_file():
            raise SettingError(f"--weights {options.weights}: no such file")
        from pipeline.codecs.ditic.header import config_of

        config_of(options.weights)


def check_codec(name: str, options: CodecOptions = DEFAULT_OPTIONS) -> None:
    """Raise what `get_codec` would, without building the network.

    Raises:
        SettingError: no codec of this name, or an option that it cannot take.
        CheckpointError: its weights are missing or damaged.
    """
    check_options(name, options)
    if _CODECS[name] is _ditic:
        from pipeline.codecs.ditic import checkpoint

        checkpoint.check(_ditic_weights(name, options))


def decoder_for(name: str, model: str | None, options: CodecOptions = DEFAULT_OPTIONS) -> Codec:
    """The codec that decodes an archive row.

    Args:
        model: fingerprint from the row.

    Raises:
        UnknownModelError: the codec or the weights are not installed.
    """
    if name not in _CODECS:
        raise UnknownModelError(f"the photo was encoded with {name!r}, which this program does not know: update it")
    options = replace(options, quality=None)  # streams say their own; this one is for encoding, maybe by another codec
    if _CODECS[name] is _ditic:
        options = _for_codec(name, options)
        if options.weights is None and name != SHIPPED_CODEC:
            raise UnknownModelError(f"the photo needs {name} with weights {model}: name their file (--weights)")
    codec = get_codec(name, options)
    if model is not None and codec.info.model != model:
        raise UnknownModelError(
            f"the photo needs {name} with weights {model}; installed is {codec.info.model}: name the right file (--weights)"
        )
    return codec


def _classical(name: str, options: CodecOptions) -> Codec:
    from pipeline.codecs.classical import pillow_codec

    return pillow_codec(name, options.quality)


def _original(name: str, options: CodecOptions) -> Codec:
    from pipeline.codecs.original import OriginalCodec

    return OriginalCodec()


def _ditic(name: str, options: CodecOptions) -> Codec:
    from pipeline.codecs.ditic.codec import DiTICCodec
    from pipeline.codecs.neural.device import choose_device

    weights = _ditic_weights(name, options)
    return DiTICCodec.load(weights, device=choose_device(options.device), runtime=options.runtime, quality=options.quality)


def _ditic_weights(name: str, options: CodecOptions) -> Path:
    """File of the weights, once the options are such as a DiT-IC can take."""
    from pipeline.codecs.ditic.header import SHIPPED, config_of

    if options.weights is None:
        if name == SHIPPED_CODEC:
            return SHIPPED
        raise SettingError(
            f"{name} needs --weights FILE: its weights do not come with this program; `photoark import-weights` makes the file"
        )
    check_weights(options)
    held = config_of(options.weights).name
    if held != name:
        raise SettingError(f"--weights {options.weights} holds weights of {held}, not of {name}")
    return options.weights


def _for_codec(name: str, options: CodecOptions) -> CodecOptions:
    """Without weights of another codec: an archive may hold streams of several, and one file is named for them all."""
    from pipeline.codecs.ditic.header import config_of

    if options.weights is not None and config_of(options.weights).name != name:
        return replace(options, weights=None)
    return options


def _described(name: str) -> Description:
    qualities, usual, weights = None, None, ""
    if (make := _CODECS[name]) is _ditic:
        weights = "bring your own: --weights FILE"
        if name == SHIPPED_CODEC:
            from pipeline.codecs.ditic.header import SHIPPED, config_of

            weights = "come with the package"
            qualities = (1, config_of(SHIPPED).latent.num_qualities)
            usual = qualities[1]
    elif make is _classical:
        from pipeline.codecs.classical import FORMATS

        qualities, usual = (1, 100), FORMATS[name].default_quality
    return Description(
        name=name, qualities=qualities, usual_quality=usual, weights=weights, generative=is_generative(name), what=_WHAT[name]
    )


_WHAT = {
    SHIPPED_CODEC: "neural, generative: a small DiT-IC that runs on a CPU",
    "ditic": "neural, generative: DiT-IC at its published size, for a GPU",
    "jpeg": "classical: opened by anything",
    "avif": "classical: small files, slow to encode",
    "webp": "classical: quick, opened by browsers",
    "jxl": "classical: JPEG XL; lossless at 100, where JPEG files come back bit for bit",
    "original": "the file itself",
}
_CODECS: dict[str, Callable[[str, CodecOptions], Codec]] = {
    SHIPPED_CODEC: _ditic,
    "ditic": _ditic,
    "jpeg": _classical,
    "avif": _classical,
    "webp": _classical,
    "jxl": _classical,
    "original": _original,
}
_GENERATIVE = frozenset((_ditic,))
"""Makers of codecs whose `CodecInfo.generative` is true."""
