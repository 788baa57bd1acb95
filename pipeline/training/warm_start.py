"""Start as a transform codec: Karhunen-Loeve transforms of pixels and of their coefficients, and their inverses.

    lat = (p - mean) E,  p the 8 x 8 pixels of a position, E the eigenvectors of their covariance of largest eigenvalues
    y = (v - mean) E / step,  v the 2 x 2 cells of lat, E their covariance's eigenvectors;  x0 = mean + y_hat E^T step

The step d is the one whose error costs what its bits do. Rounding adds d^2/12 to the squared error of a coefficient and
-log2 d to its bits; on means over three colours and one pixel, d^2/36 - w log2 d is least at d^2 = 18 w / ln 2.
A quality of rate weight w_q starts with the gain sqrt(w / w_q), w the least of the rate weights.

From random weights, training first learns the few directions of large variance and quantises the others to zero, from where
it hardly comes back: decoding y without rounding gained 0.1 dB, while 4 dB lay between the codec and its autoencoder. So
begun, the codec carries all directions from its first step on, and training trades them against the rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codecs.ditic.blocks import DCB
from pipeline.codecs.ditic.config import DiTICConfig
from pipeline.codecs.ditic.model import DiTIC


def suits(config: DiTICConfig) -> bool:
    """Whether the transforms fit through every layer."""
    vae, latent = config.autoencoder, config.latent
    return (
        len(vae.block_channels) == 2
        and vae.narrow
        and vae.encoder_layers[0] == 0 < vae.decoder_layers[0]
        and vae.block_channels[0] >= 3 * vae.patch_size**2
        and vae.block_channels[1] >= vae.latent_channels
        and latent.lat_channels >= vae.latent_channels
        and latent.y_channels >= 4 * vae.latent_channels
        and (latent.head_channels or latent.y_channels) >= vae.latent_channels
    )


@torch.no_grad()
def warm_start(model: DiTIC, batches: Sequence[Tensor], rate_weights: Sequence[float]) -> float:
    """Set the weights of the autoencoder, of `model.codec` and of the transformer's last layer, in place.

    Args:
        batches: photos, B x 3 x H x W in [-1, 1]; some hundred crops suffice.
        rate_weights: of each quality, against the squared error on [-1, 1].

    Returns:
        The quantisation step chosen, in units of the latent.
    """
    _set_autoencoder(model, [F.pixel_unshuffle(x, model.config.autoencoder.patch_size) for x in batches])
    lats = [model.analyse(x)[0] for x in batches]
    mean, eigenvalues, eigenvectors = _principal_components(lats)
    step = math.sqrt(18 / math.log(2) * min(rate_weights))
    _set_analysis(model, (eigenvectors.T / step).float(), (-(mean @ eigenvectors) / step).float())
    _set_synthesis(model, (eigenvectors * step).float(), mean.float())
    codec: Any = model.codec
    # No velocity at first: the one step hands the mean on.
    nn.init.zeros_(model.DiT.proj_out.weight)
    nn.init.zeros_(model.DiT.proj_out.bias)
    scales = torch.ones(codec.y_channels)
    scales[: len(eigenvalues)] = (eigenvalues.sqrt() / step).float()
    if len(rate_weights) > 1:
        log_gains = torch.tensor(rate_weights).div(min(rate_weights)).log().mul(-0.5)
        codec.log_gain.copy_(log_gains[:, None].expand_as(codec.log_gain))
        codec.scale_bias.copy_(scales * log_gains.exp()[:, None])
        scales = torch.zeros_like(scales)
    # Scales that the symbols have: with those of random weights every symbol would be an outlier.
    for adapter in codec.adapter_out:
        adapter.branch1[4].weight[codec.y_channels :] *= 0.1
        adapter.branch1[4].bias[codec.y_channels :] = scales
    return step


def _principal_components(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, eigenvalues and eigenvectors (columns, largest first) of the 2 x 2 cells, float64: (channel, row, column)."""
    cells = torch.cat([F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1).flatten(0, 2) for x in maps]).double()
    mean = cells.mean(0)
    eigenvalues, eigenvectors = torch.linalg.eigh((cells - mean).T @ (cells - mean) / len(cells))
    return mean, eigenvalues.flip(0), eigenvectors.flip(1)


def _set_autoencoder(model: DiTIC, patches: Sequence[Tensor]) -> None:
    """Encoder: 2 x 2 patches -> their first principal components; decoder: back."""
    mean, _, eigenvectors = _principal_components(patches)
    num_channels = model.config.autoencoder.latent_channels
    basis = eigenvectors[:, :num_channels].float()
    vae: Any = model.vae
    first, up = vae.encoder.conv_in.conv, vae.decoder.up_blocks[0][0].conv
    # Stride 2 and padding 1: taps 1 and 2 of a kernel of 3 see the cell.
    first.weight[:num_channels] = 0
    first.weight[:num_channels, :, 1:, 1:] = basis.T.view(num_channels, -1, 2, 2)
    first.bias[:num_channels] = -(mean.float() @ basis)
    _set_identity(vae.encoder.conv_out, num_channels)
    _set_identity(vae.decoder.conv_in, num_channels)
    nn.init.zeros_(up.weight)
    up.weight[: len(mean), :num_channels, 1, 1] = basis
    nn.init.zeros_(up.bias)
    up.bias[: len(mean)] = mean.float()
    _set_identity(vae.decoder.conv_out, vae.decoder.conv_out.out_channels)


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
