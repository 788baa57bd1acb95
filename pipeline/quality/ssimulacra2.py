"""SSIMULACRA 2: structural similarity at six scales in a colour space of the eye, weighed to fit the scores of viewers.

    sRGB ─► linear RGB ─┬─► XYB ─► three error maps ─► mean and 4-norm of each
                        └─► half the size ─► again, five times              ─► weighted sum ─► score

Written after its definition, version 2.1 (Jon Sneyers, Cloudinary, April 2023; BSD-licensed with JPEG XL's tools), whose
constants it takes over; the blur is that of Charalampidis, "Recursive Implementation of the Gaussian Filter Using
Truncated Cosine Functions" (2016). The tests hold it against scores that the original program gave.

Shapes: B photos, 3 channels (X, Y, B - Y), H x W pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.codecs.base import Pixels

MIN_SIDE = 225
"""Pixels: below it the sixth scale is too small to count, and the definition then gives weights to scales that they
were not fitted for, so that the number compares with no other photo's."""

_NUM_SCALES = 6
_MIN_SCALED_SIDE = 8
_SIGMA, _RADIUS = 1.5, 5
_C2 = 0.0009

# Linear RGB to the responses of long, medium and short cones.
_CONES = ((0.30, 0.622, 0.078), (0.23, 0.692, 0.078), (0.24342268924547819, 0.20476744424496821, 0.5518098665095536))
_BIAS = 0.0037930732552754493

# Each row is a channel and a scale, full size first: for the mean, then for the 4-norm, the weights of the maps of
# structure, of edges that came, and of edges that went.
_WEIGHTS = (
    (0.0, 0.0007376606707406586, 0.0, 0.0, 0.0007793481682867309, 0.0),
    (0.0, 0.0004371155730107379, 0.0, 1.1041726426657346, 0.00066284834129271, 0.00015231632783718752),
    (0.0, 0.0016406437456599754, 0.0, 1.8422455520539298, 11.441172603757666, 0.0),
    (0.0007989109436015163, 0.000176816438078653, 0.0, 1.8787594979546387, 10.94906990605142, 0.0),
    (0.0007289346991508072, 0.9677937080626833, 0.0, 0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053),
    (0.0004550992113792063, 0.0, 0.0, 0.0013648766163243398, 0.0, 0.0),
    (0.0, 0.0, 0.0, 7.466890328078848, 0.0, 17.445833984131262),
    (0.0006235601634041466, 0.0, 0.0, 6.683678146179332, 0.00037724407979611296, 1.027889937768264),
    (225.20515300849274, 0.0, 0.0, 19.213238186143016, 0.0011401524586618361, 0.001237755635509985),
    (176.39317598450694, 0.0, 0.0, 24.43300999870476, 0.28520802612117757, 0.0004485436923833408),
    (0.0, 0.0, 0.0, 34.77906344483772, 44.835625328877896, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0008680556573291698, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0005313191874358747, 0.0, 0.00016533814161379112, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0004179171803251336, 0.0017290828234722833, 0.0),
    (0.0020827005846636437, 0.0, 0.0, 8.826982764996862, 23.19243343998926, 0.0),
    (95.1080498811086, 0.9863978034400682, 0.9834382792465353, 0.0012286405048278493, 171.2667255897307, 0.9807858872435379),
    (0.0, 0.0, 0.0, 0.0005130064588990679, 0.0, 0.00010854057858411537),
)  # fmt: skip


def ssimulacra2(original: Pixels, decoded: Pixels) -> float:
    """Score of `decoded`, at most 100, which equal photos have; 90 cannot be told apart, 70 is high, 50 medium and 30 low
    quality; it may be negative.

    Args:
        original: H x W x 3, uint8, sRGB; sides under `MIN_SIDE` give a number that compares with few others.
        decoded: of the same shape.

    Raises:
        ValueError: the shapes differ, are not H x W x 3, or a side is under 8 pixels.
    """
    if original.shape != decoded.shape or original.ndim != 3 or original.shape[2] != 3:
        raise ValueError(f"two photos of one shape H x W x 3 are needed, not {original.shape} and {decoded.shape}")
    if min(original.shape[:2]) < _MIN_SCALED_SIDE:
        raise ValueError(f"SSIMULACRA 2 needs sides of at least {_MIN_SCALED_SIDE} pixels, not {original.shape[:2]}")
    with torch.inference_mode():
        linear = _linear(np.stack([original, decoded]))
        scales = [_norms(*_xyb(linear))]
        # The size before halving is what the definition looks at.
        while len(scales) < _NUM_SCALES and min(linear.shape[2:]) >= _MIN_SCALED_SIDE:
            linear = _halved(linear)
            scales.append(_norms(*_xyb(linear)))
    # With fewer scales than six the weights are used up from the front, as the original program does.
    norms = torch.stack(scales, dim=1).flatten().double().numpy()
    return _score(float(np.dot(np.ravel(_WEIGHTS)[: norms.size], norms)))


def _score(error: float) -> float:
    error *= 0.9562382616834844
    error = 2.326765642916932 * error - 0.020884521182843837 * error**2 + 6.248496625763138e-05 * error**3
    return 100.0 - 10.0 * error**0.6276336467831387 if error > 0 else 100.0


def _linear(photos: np.ndarray) -> Tensor:
    """B x H x W x 3, uint8, sRGB -> B x 3 x H x W, linear, 0..1."""
    levels = np.arange(256) / 255
    table = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    return torch.from_numpy(table[photos]).permute(0, 3, 1, 2).contiguous()


def _xyb(linear: Tensor) -> Tensor:
    """Linear RGB -> X, Y and B - Y, each shifted and scaled to about 0..1."""
    cones = torch.einsum("ck,bkhw->bchw", torch.tensor(_CONES, dtype=linear.dtype), linear) + _BIAS
    long, medium, short = (cones.clamp(min=0) ** (1 / 3) - math.cbrt(_BIAS)).unbind(1)
    y = (long + medium) / 2
    return torch.stack([7 * (long - medium) + 0.42, y + 0.01, short - y + 0.55], dim=1)


def _norms(original: Tensor, decoded: Tensor) -> Tensor:
    """Mean and 4-norm of the three error maps, from 3 x H x W each: 3 channels x 6, in the order of `_WEIGHTS`."""
    mean_1, mean_2, square_1, square_2, product = _blurred(
        torch.stack([original, decoded, original * original, decoded * decoded, original * decoded])
    )
    # In this order equal photos give exactly twice the covariance, and so exactly 100.
    covariance, variances = product - mean_1 * mean_2, (square_1 - mean_1**2) + (square_2 - mean_2**2)
    # SSIM without the denominator of its luminance term: XYB is perceptually even already.
    structure = (1 - (1 - (mean_1 - mean_2) ** 2) * (2 * covariance + _C2) / (variances + _C2)).clamp(min=0)
    edges = (1 + (decoded - mean_2).abs()) / (1 + (original - mean_1).abs()) - 1
    maps = torch.stack([structure, edges.clamp(min=0), (-edges).clamp(min=0)], dim=1).double()  # 3 channels x 3 maps x H x W
    return torch.cat([maps.mean((2, 3)), (maps**4).mean((2, 3)) ** 0.25], dim=1)


def _blurred(planes: Tensor) -> Tensor:
    """Along both axes, with zeros outside; any leading dimensions."""
    flat = planes.reshape(1, -1, *planes.shape[-2:])
    taps = torch.from_numpy(_gaussian_taps()).to(planes.dtype).expand(flat.shape[1], 1, -1)
    reach = taps.shape[2] // 2
    # One group a plane: a fifth of the time of planes side by side in a batch.
    flat = F.conv2d(flat, taps[:, :, None, :], padding=(0, reach), groups=flat.shape[1])
    return F.conv2d(flat, taps[:, :, :, None], padding=(reach, 0), groups=flat.shape[1]).reshape(planes.shape)


def _gaussian_taps() -> np.ndarray:
    """A Gaussian as the sum of three cosines that end where they are zero.

    Of all such sums with the right sum and the right variance, the one nearest to the Gaussian's own coefficients.
    """
    n = np.arange(1 - _RADIUS, _RADIUS)
    frequencies = np.array([1, 3, 5]) * np.pi / (2 * _RADIUS)
    cosines = np.cos(np.outer(frequencies, n))
    wanted = np.exp(-0.5 * (_SIGMA * frequencies) ** 2) / _RADIUS
    moments = np.stack([cosines.sum(1), (cosines * n**2).sum(1)])
    return (wanted + np.linalg.pinv(moments) @ (np.array([1, _SIGMA**2]) - moments @ wanted)) @ cosines


def _halved(planes: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; the last row and column are repeated where a side is odd."""
    height, width = planes.shape[2:]
    return F.avg_pool2d(F.pad(planes, (0, width % 2, 0, height % 2), mode="replicate"), 2)
