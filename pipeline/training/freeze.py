"""Float checkpoint in, exact checkpoint out, and the rate it cost.

The entropy path becomes integers calibrated on real photos; the rest is stored as float16. Rates are those of real rANS
payloads of the same photos, under the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codecs.ditic import checkpoint
from pipeline.codecs.ditic.codec import DiTICCodec
from pipeline.codecs.ditic.exact import cdf_tables, quantise
from pipeline.codecs.ditic.latent_codec import ENTROPY_PATH, SCALE_TABLE
from pipeline.codecs.ditic.model import DiTIC
from pipeline.codecs.ditic.packing import Packing
from pipeline.entropy.container import unpack
from pipeline.entropy.encoder import encode_symbols
from pipeline.entropy.quantise import observe
from pipeline.entropy.tables import CdfTables
from pipeline.errors import CheckpointError
from pipeline.pixels.padding import pad
from pipeline.training.checkpoint import load_trained


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
) -> FreezeReport:
    """As `freeze`, for a float model in memory, which is used up: at full size there is no room for it and its copy.

    Args:
        released: the weights are those of the official release. Its CDF tables are taken as they are, and its float entropy
            path is kept, so that its own streams can be read.

    Raises:
        CheckpointError: a weight is too large for float16, or not finite.
    """
    model = model.eval()
    for name, parameter in model.named_parameters():
        if released and name.startswith(checkpoint.ENTROPY_PREFIXES):
            continue
        if not torch.isfinite(parameter.copy_(parameter.to(torch.float16))).all():
            raise CheckpointError(f"{name} holds values that float16 cannot")
    if not released:
        # The integer tables of the format: computed here, once, and stored; never when a codec is loaded.
        model.codec.entropy_bottleneck.update(force=True, update_quantiles=True)
        model.codec.gaussian_conditional.update()
    tables = cdf_tables(model.codec)
    float_bytes, largest_z = 0, 0.0
    qualities = range(model.config.latent.num_qualities)
    with observe(model.codec, ENTROPY_PATH) as ranges:
        for photo, quality in product(calibration, qualities):
            num_bytes, z = _float_bytes(model, photo, quality, tables)
            float_bytes += num_bytes
            largest_z = max(largest_z, float(z.abs().max()))
    specs, tensors = quantise(model.codec, ranges, largest_z)
    target.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = checkpoint.save(target, model, specs, tensors, training, released=released)
    model.to("meta")

    num_pixels = sum(photo.shape[0] * photo.shape[1] for photo in calibration) * len(qualities)
    codec = DiTICCodec.load(target)
    streams = [codec.at(1 + quality).encode([photo])[0] for photo, quality in product(calibration, qualities)]
    exact_bytes = sum(len(unpack(stream)[1]) for stream in streams)
    return FreezeReport(
        fingerprint=fingerprint,
        num_photos=len(calibration),
        float_bpp=round(8 * float_bytes / num_pixels, 5),
        exact_bpp=round(8 * exact_bytes / num_pixels, 5),
        stream_bpp=round(8 * sum(map(len, streams)) / num_pixels, 5),
        rate_cost_percent=round(100 * (exact_bytes / float_bytes - 1), 3),
        num_bytes=target.stat().st_size,
    )


def _float_bytes(model: DiTIC, photo: NDArray[np.uint8], quality: int, tables: CdfTables) -> tuple[int, Tensor]:
    """Payload of one photo when the float entropy model chooses symbols and CDF rows; and its z."""
    x = torch.from_numpy(pad(photo, model.config.multiple)).permute(2, 0, 1)[None].float() / 127.5 - 1
    codec = model.codec
    chosen = torch.tensor([quality])
    y, z = codec.analyse(*model.analyse(x), codec.gain(chosen))
    packing = Packing(y)
    medians = codec.z_medians().view(1, -1, 1, 1)
    z_symbols = torch.round(z - medians)
    z_rows = torch.arange(z.shape[1]).view(1, -1, 1, 1).expand_as(z) + len(SCALE_TABLE)
    symbols, rows = [z_symbols.flatten()], [z_rows.flatten()]
    thresholds = torch.tensor(SCALE_TABLE[:-1])

    def code(k: int, mean: Tensor, scale: Tensor) -> Tensor:
        rounded = torch.round(packing.pack(y, k) - mean)
        symbols.append(rounded.flatten())
        rows.append(torch.bucketize(scale.contiguous(), thresholds).flatten())
        return rounded

    codec.context_steps(codec.hyper_synthesis(z_symbols + medians), code, codec.scale_bias_of(chosen))
    coded, indexes = (torch.cat(part).to(torch.int32).numpy() for part in (symbols, rows))
    return len(encode_symbols(coded, indexes, tables)), z
