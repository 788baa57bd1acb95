"""Start the latent codec as a transform codec: the Karhunen-Loeve transform of the autoencoder's latent, and its inverse.

    y = (v - mean) E / step,  v the 2 x 2 cells of lat, E their covariance's eigenvectors;  x0 = mean + y_hat E^T step

From random weights, training first learns the few directions of large variance and quantises the others to zero, from where
it hardly comes back: decoding y without rounding gained 0.1 dB, while 4 dB lay between the codec and its autoencoder. So
begun, the codec carries all directions from its first step on, and training trades them against the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codecs.ditic.blocks import DCB
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC

MAX_MSE_GROWTH = 1.15
"""By how much quantisation may raise the autoencoder's squared error at first."""


def suits(config: DiTICConfig) -> bool:
    """Whether the latent fits through the codec's first layer, and all its directions into y."""
    return config.autoencoder.latent_channels <= config.latent.lat_channels and (
        4 * config.autoencoder.latent_channels <= config.latent.y_channels
    )


@torch.no_grad()
def warm_start(model: DiTIC, batches: Sequence[Tensor]) -> float:
    """Set the weights of `model.codec` and the transformer's last layer, in place.

    Args:
        batches: photos, B x 3 x H x W in [-1, 1]; some hundred crops suffice.

    Returns:
        The quantisation step chosen, in units of the latent.
    """
    lats = [model.analyse(x)[0] for x in batches]
    cells = torch.cat([F.pixel_unshuffle(lat, 2).permute(0, 2, 3, 1).flatten(0, 2) for lat in lats]).double()
    mean = cells.mean(0)
    eigenvectors = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))[1].flip(1)  # columns, largest first
    step = _largest_step(model, batches, lats)
    _set_analysis(model, (eigenvectors.T / step).float(), (-(mean @ eigenvectors) / step).float())
    _set_synthesis(model, (eigenvectors * step).float(), mean.float())
    # No velocity at first: the one step hands the mean on.
    nn.init.zeros_(model.DiT.proj_out.weight)
    nn.init.zeros_(model.DiT.proj_out.bias)
    # Scales of about one: with those of random weights every symbol would be an outlier.
    codec: Any = model.codec
    for adapter in codec.adapter_out:
        adapter.branch1[4].bias[codec.y_channels :] = 1.0
    return step


def _largest_step(model: DiTIC, batches: Sequence[Tensor], lats: Sequence[Tensor]) -> float:
    """By bisection on the noise that rounding to multiples of a step would add."""
    generator = torch.Generator().manual_seed(0)
    noises = [(torch.rand(lat.shape, generator=generator) - 0.5).to(lat.device) for lat in lats]

    def mse(step: float) -> float:
        rendered = (model.render(lat + step * noise) for lat, noise in zip(lats, noises, strict=True))
        return float(sum((x_hat - x).square().mean() for x_hat, x in zip(rendered, batches, strict=True)))

    limit = MAX_MSE_GROWTH * mse(0.0)
    low, high = 0.0, 16 * max(float(lat.std()) for lat in lats)
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if mse(middle) < limit else (low, middle)
    return max(low, 1e-3)


def _set_analysis(model: DiTIC, matrix: Tensor, offset: Tensor) -> None:
    """g_a: y = matrix v + offset, v = (channel, row, column) of a cell."""
    g_a: Any = model.codec.g_a
    lat_channels = model.config.autoencoder.latent_channels
    _set_identity(g_a.pre1[0], lat_channels)
    for block in g_a.analysis_transform:
        if isinstance(block, DCB):
            _bypass(block)
    down: Any = g_a.shrink
    nn.init.zeros_(down.weight)
    nn.init.zeros_(down.bias)
    rows = matrix.shape[0]
    # Stride 2 and padding 1: taps 1 and 2 of a kernel of 3 see the cell.
    down.weight[:rows, :lat_channels, 1:, 1:] = matrix.view(rows, lat_channels, 2, 2)
    down.bias[:rows] = offset


def _set_synthesis(model: DiTIC, matrix: Tensor, mean: Tensor) -> None:
    """g_s and the residual head: their sum is v = matrix y + mean, since gelu(y) - gelu(-y) = y."""
    codec: Any = model.codec
    lat_channels = model.config.autoencoder.latent_channels
    for head, sign in ((codec.g_s.synthesis_transform, 1.0), (codec.aux.block, -1.0)):
        *blocks, upsample, last = head
        for block in blocks:
            _bypass(block)
        first, _, expand, _ = upsample.up
        _set_identity(first, codec.y_channels, sign)
        nn.init.zeros_(expand.weight)
        nn.init.zeros_(expand.bias)
        # PixelShuffle wants (channel, row, column), as the cells are.
        expand.weight[: matrix.shape[0], : matrix.shape[1], 0, 0] = sign * matrix
        if sign > 0:
            expand.bias[: len(mean)] = mean
        _set_identity(last, lat_channels)


def _set_identity(conv: Any, num_channels: int, gain: float = 1.0) -> None:
    """The first channels pass; what else the convolution makes of them stays small."""
    conv.weight.mul_(0.1)
    conv.weight[:num_channels] = 0
    middle = conv.kernel_size[0] // 2
    for i in range(num_channels):
        conv.weight[i, i, middle, middle] = gain
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _bypass(block: Any) -> None:
    """Both residual branches start at nothing."""
    for conv in (block.dc[3], block.ffn[2]):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
