"""Float checkpoint in, exact checkpoint out, and the rate it cost.

The entropy path becomes integers calibrated on real photos; the rest is stored as float16. Rates are those of real rANS
payloads of the same photos, under the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.exact import ExactEntropyModel, cdf_tables, quantise
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH, SCALE_TABLE, LatentCodec
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.packing import Packing
from pipeline.entropy.container import Header, pack
from pipeline.entropy.encoder import encode_symbols
from pipeline.entropy.fixed_point import use_kernels
from pipeline.entropy.quantise import observe
from pipeline.entropy.tables import CdfTables
from pipeline.errors import CheckpointError
from pipeline.pixels.padding import pad
from pipeline.progress import OnStep, Step, ignore_step
from pipeline.training.checkpoint import load_trained

_CALIBRATED = ("vae.encoder.", "aux_codec.", "codec.")
"""How the names of weights begin that run while the entropy path is calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeReport:
    """What freezing cost."""

    fingerprint: str
    num_photos: int
    float_bpp: float
    """Payloads, over all qualities, when the float entropy model chooses symbols and CDF rows."""
    exact_bpp: float
    """Payloads of the exact codec."""
    stream_bpp: float
    """The same with their containers."""
    rate_cost_percent: float
    num_bytes: int
    """Of the file."""


def freeze(source: Path, target: Path, calibration: Sequence[NDArray[np.uint8]], *, averaged: bool = True) -> FreezeReport:
    """Make the exact checkpoint `target` of the training checkpoint `source`.

    Args:
        calibration: photos, H x W x 3 uint8; a few dozen of varied content.
        averaged: whether the moving average of the weights is taken, or the last of them.

    Raises:
        CheckpointError: `source` is no training checkpoint.
    """
    model, training = load_trained(source, averaged=averaged)
    return freeze_model(model, target, calibration, training | {"averaged": averaged})


@torch.inference_mode()
def freeze_model(
    model: DiTIC,
    target: Path,
    calibration: Sequence[NDArray[np.uint8]],
    training: dict[str, Any],
    *,
    released: bool = False,
    dtype: torch.dtype = torch.float16,
    on_step: OnStep = ignore_step,
) -> FreezeReport:
    """As `freeze`, for a float model in memory, which is used up: at full size there is no room for it and its copy.

    Args:
        released: the weights are those of the official release. Its CDF tables are taken as they are, and its float entropy
            path is kept, so that its own streams can be read.
        dtype: that everything outside the entropy path is stored in, float16 or float32.
        on_step: called after each photo, and as the file grows.

    Raises:
        CheckpointError: a weight is too large for `dtype`, or not finite.
    """
    model = model.eval()
    _round(model, dtype, released=released)
    codec = model.codec
    if not released:
        # The integer tables of the format: computed here, once, and stored; never when a codec is loaded.
        codec.entropy_bottleneck.update(force=True, update_quantiles=True)
        codec.gaussian_conditional.update()
    tables = cdf_tables(codec)
    num_qualities = model.config.latent.num_qualities
    qualities = range(num_qualities)
    float_bytes, largest_z, features = 0, 0.0, []
    with observe(codec, ENTROPY_PATH) as ranges:
        for photo in calibration:
            features.append(_features(model, photo))
            for quality in qualities:
                y, z = _latents(codec, features[-1], quality)
                float_bytes += _float_bytes(codec, y, z, quality, tables)
                largest_z = max(largest_z, float(z.abs().max()))
            on_step(Step(stage="calibrating", num_done=len(features), num_total=len(calibration), unit="photos"))
    specs, tensors = quantise(codec, ranges, largest_z)
    target.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = checkpoint.save(target, model, specs, tensors, training, released=released, dtype=dtype, on_step=on_step)

    entropy = ExactEntropyModel(codec, specs, tensors)
    use_kernels(codec)
    exact_bytes = stream_bytes = 0
    for i, (photo, features_of_photo) in enumerate(zip(calibration, features, strict=True)):
        for quality in qualities:
            ((symbols, rows),) = entropy.encode(*_latents(codec, features_of_photo, quality), [quality])
            payload = encode_symbols(symbols, rows, entropy.tables)
            exact_bytes += len(payload)
            stream_bytes += len(pack(_header(model.config.name, fingerprint, photo, quality), payload))
        on_step(Step(stage="measuring the rate", num_done=i + 1, num_total=len(calibration), unit="photos"))
    model.to("meta")
    num_pixels = sum(photo.shape[0] * photo.shape[1] for photo in calibration) * num_qualities
    return FreezeReport(
        fingerprint=fingerprint,
        num_photos=len(calibration),
        float_bpp=round(8 * float_bytes / num_pixels, 5),
        exact_bpp=round(8 * exact_bytes / num_pixels, 5),
        stream_bpp=round(8 * stream_bytes / num_pixels, 5),
        rate_cost_percent=round(100 * (exact_bytes / float_bytes - 1), 3),
        num_bytes=target.stat().st_size,
    )


def _round(model: DiTIC, dtype: torch.dtype, *, released: bool) -> None:
    """Check that `dtype` holds every weight, and round those that calibration runs, as they will be stored.

    The others stay untouched, and so mapped to their file: changed, they would have to be copied.
    """
    for name, parameter in model.named_parameters():
        if released and name.startswith(checkpoint.ENTROPY_PREFIXES):
            continue
        rounded = parameter.to(dtype)
        if not torch.isfinite(rounded).all():
            way_out = released and dtype == torch.float16 and bool(torch.isfinite(parameter).all())
            raise CheckpointError(
                f"{name} holds values that {str(dtype).removeprefix('torch.')} cannot hold"
                f"{'; import with --float32' if way_out else ''}"
            )
        if name.startswith(_CALIBRATED) and dtype != parameter.dtype:
            parameter.copy_(rounded)


def _features(model: DiTIC, photo: NDArray[np.uint8]) -> Tensor:
    """y of one photo before the gain of its quality, 1 x C x h x w."""
    x = torch.from_numpy(pad(photo, model.config.multiple)).permute(2, 0, 1)[None].float() / 127.5 - 1
    return model.codec.g_a(*model.analyse(x))


def _latents(codec: LatentCodec, features: Tensor, quality: int) -> tuple[Tensor, Tensor]:
    """y and z of one photo at one quality."""
    y = features * codec.gain(torch.tensor([quality]))
    return y, codec.h_a(y)


def _float_bytes(codec: LatentCodec, y: Tensor, z: Tensor, quality: int, tables: CdfTables) -> int:
    """Payload of one photo when the float entropy model chooses symbols and CDF rows."""
    packing = Packing(y)
    medians = codec.z_medians().view(1, -1, 1, 1)
    z_symbols = torch.round(z - medians)
    z_rows = torch.arange(z.shape[1]).view(1, -1, 1, 1).expand_as(z) + len(SCALE_TABLE)
    symbols, rows = [z_symbols.flatten()], [z_rows.flatten()]
    thresholds = codec.gaussian_conditional.scale_table[:-1]

    def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
        rounded = torch.round(packing.pack(y, k) - mean)
        symbols.append(rounded.flatten())
        rows.append(torch.bucketize(scale.contiguous(), thresholds).flatten())
        return rounded

    codec.context_steps(codec.hyper_synthesis(z_symbols + medians), code, codec.scale_bias_of(torch.tensor([quality])))
    coded, indexes = (torch.cat(part).to(torch.int32).numpy() for part in (symbols, rows))
    return len(encode_symbols(coded, indexes, tables))


def _header(codec: str, fingerprint: str, photo: NDArray[np.uint8], quality: int) -> Header:
    """Of the container around a photo's payload, as long as the one that the codec writes."""
    height, width = photo.shape[:2]
    return Header(
        codec=codec, arithmetic="exact-1", model=fingerprint, quality=quality + 1, width=width, height=height, checksum=0
    )  # fmt: skip
