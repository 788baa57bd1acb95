"""Float checkpoint in, exact checkpoint out, and the rate it cost.

The entropy path becomes integers calibrated on real photos; the rest is stored as float16. Rates are measured on the same
photos: the float model's cross-entropy against the bytes that the exact codec really writes.
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
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.exact import quantise
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH, pack
from pipeline.codecs.ditic.model import DiTIC
from pipeline.entropy.fixed_point import observe
from pipeline.pixels.padding import pad
from pipeline.training.loop import load_averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeReport:
    """What freezing cost."""

    fingerprint: str
    num_photos: int
    float_bpp: float
    """Cross-entropy of the rounded latents under the float model."""
    exact_bpp: float
    """Bytes of the streams, containers included."""
    rate_cost_percent: float
    num_bytes: int
    """Of the file."""


def freeze(
    source: Path, target: Path, calibration: Sequence[NDArray[np.uint8]], notes: dict[str, Any] | None = None
) -> FreezeReport:
    """Make the exact checkpoint `target` of the training checkpoint `source`.

    Args:
        calibration: photos, H x W x 3 uint8; a few dozen of varied content.
        notes: added to what the file tells of its training.

    Raises:
        CheckpointError: `source` is no training checkpoint.
    """
    model, training = load_averaged(source)
    return freeze_model(model, target, calibration, training | (notes or {}))


@torch.inference_mode()
def freeze_model(
    model: DiTIC, target: Path, calibration: Sequence[NDArray[np.uint8]], training: dict[str, Any]
) -> FreezeReport:
    """As `freeze`, for a float model in memory, which is changed: its weights are rounded to float16."""
    model = model.eval()
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.float16))
    # The integer tables of the format: computed here, once, and stored; never when a codec is loaded.
    model.codec.entropy_bottleneck.update(force=True, update_quantiles=True)
    model.codec.gaussian_conditional.update()
    bits, largest_z = 0.0, 0.0
    with observe(model.codec, ENTROPY_PATH) as ranges:
        for photo in calibration:
            photo_bits, z = _float_rate(model, photo)
            bits += photo_bits
            largest_z = max(largest_z, float(z.abs().max()))
    specs, tensors = quantise(model.codec, ranges, largest_z)
    target.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = checkpoint.save(target, model, specs, tensors, training)

    codec = DiTICCodec.load(target)
    num_pixels = sum(photo.shape[0] * photo.shape[1] for photo in calibration)
    exact_bits = sum(8 * len(codec.encode([photo])[0]) for photo in calibration)
    return FreezeReport(
        fingerprint=fingerprint,
        num_photos=len(calibration),
        float_bpp=round(bits / num_pixels, 5),
        exact_bpp=round(exact_bits / num_pixels, 5),
        rate_cost_percent=round(100 * (exact_bits / bits - 1), 3),
        num_bytes=target.stat().st_size,
    )


def _float_rate(model: DiTIC, photo: NDArray[np.uint8]) -> tuple[float, Tensor]:
    """Bits of one photo under the float model, with rounded latents; and its z."""
    x = torch.from_numpy(pad(photo, model.config.multiple)).permute(2, 0, 1)[None].float() / 127.5 - 1
    codec = model.codec
    y = codec.g_a(*model.analyse(x))
    z = codec.h_a(y)
    z_hat, z_likelihoods = codec.entropy_bottleneck(z, training=False)
    bits = [-z_likelihoods.log2().sum()]

    def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
        packed = pack(y, k)
        bits.append(-codec.gaussian_conditional(packed, scale, mean, training=False)[1].log2().sum())
        return torch.round(packed - mean)

    codec.context_steps(codec.hyper_synthesis(z_hat), code)
    return float(torch.stack(bits).sum()), z
