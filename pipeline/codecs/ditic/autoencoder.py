"""Pixels <-> continuous latent: DC-AE, and ELIC's analysis transform as the auxiliary encoder.

x    B x 3 x H x W, in [-1, 1]
lat  B x 32 x H/f x W/f, f = 32 at full size
aux  B x 320 x H/16 x W/16
"""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.codecs.ditic.config import AutoencoderConfig, AuxEncoderConfig
from pipeline.codecs.ditic.external import AttentionBlock, AutoencoderDC, DCUpBlock2d


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderDC:
    """diffusers' `AutoencoderDC` of these sizes, with SANA's layout: RMS norm and SiLU in the decoder."""
    num_stages = len(config.block_channels)
    num_attention = num_stages - config.num_convolutional_stages
    block_types = ("ResBlock",) * config.num_convolutional_stages + ("EfficientViTBlock",) * num_attention
    multiscales = ((),) * config.num_convolutional_stages + ((5,),) * num_attention
    autoencoder = AutoencoderDC(
        in_channels=3 * config.patch_size**2,
        latent_channels=config.latent_channels,
        attention_head_dim=config.attention_head_dim,
        encoder_block_types=block_types,
        decoder_block_types=block_types,
        encoder_block_out_channels=config.block_channels,
        decoder_block_out_channels=config.block_channels,
        encoder_layers_per_block=config.encoder_layers,
        decoder_layers_per_block=config.decoder_layers,
        encoder_qkv_multiscales=multiscales,
        decoder_qkv_multiscales=multiscales,
        upsample_block_type="pixel_shuffle" if config.narrow else "interpolate",
        downsample_block_type="Conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=config.scaling_factor,
        encoder_out_shortcut=not config.narrow,
        decoder_in_shortcut=not config.narrow,
    )
    if config.narrow:
        _adapt_to_narrow(autoencoder)
    return autoencoder


def _adapt_to_narrow(autoencoder: AutoencoderDC) -> None:
    autoencoder.decoder.norm_out = nn.Identity()
    autoencoder.decoder.conv_act = nn.Identity()
    # An upsampling's shortcut would have to be taken away again by its convolution, at the price of half the bits of bfloat16.
    for module in autoencoder.decoder.modules():
        if isinstance(module, DCUpBlock2d):
            module.shortcut = False
    # Every residual branch ends in an RMS norm: at weight 1 its noise would drown high frequencies at first.
    for name, parameter in autoencoder.named_parameters():
        if name.endswith((".norm.weight", ".norm_out.weight")):
            nn.init.constant_(parameter, 0.01)


class AuxEncoder(nn.Module):
    """ELIC's g_a (He et al., CVPR 2022, figure 3): (x + 1) / 2 in [0, 1] -> B x out x H/16 x W/16."""

    def __init__(self, config: AuxEncoderConfig) -> None:
        super().__init__()
        n, m = config.width, config.out_channels
        self.analysis_transform = nn.Sequential(
            _down5x5(3, n),
            *(ResidualBottleneck(n) for _ in range(3)),
            _down5x5(n, n),
            *(ResidualBottleneck(n) for _ in range(3)),
            AttentionBlock(n),
            _down5x5(n, n),
            *(ResidualBottleneck(n) for _ in range(3)),
            _down5x5(n, m),
            AttentionBlock(m),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.analysis_transform(x)


class ResidualBottleneck(nn.Module):
    """x + (1x1 N-N/2, ReLU, 3x3, ReLU, 1x1)(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _down5x5(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 5, stride=2, padding=2)
