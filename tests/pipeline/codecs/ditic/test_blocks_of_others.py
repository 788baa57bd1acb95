"""DC-AE, SANA and the attention block, written here, against diffusers' and compressai's: the same names, the same bits."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.codecs.ditic.autoencoder import DCAE, AttentionBlock
from pipeline.codecs.ditic.config import AutoencoderConfig, TransformerConfig
from pipeline.codecs.ditic.sana import SanaTransformer

import pipeline.codecs.ditic.external  # noqa: F401 # isort: skip (makes the two importable beside a CPU-only torch)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from compressai.layers import AttentionBlock as TheirAttentionBlock
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d

DTYPES = [torch.float32, torch.bfloat16]


def same_weights(ours: nn.Module, theirs: nn.Module, dtype: torch.dtype) -> None:
    """Give both the weights of `ours`, shaken so that no norm is at its start, in `dtype`."""
    torch.manual_seed(0)
    for parameter in ours.parameters():
        parameter.data = (parameter.data + 0.05 * torch.randn_like(parameter)).to(dtype)
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)


def their_autoencoder(config: AutoencoderConfig) -> Any:
    num_convolutional = config.num_convolutional_stages
    num_attention = len(config.block_channels) - num_convolutional
    blocks = ("ResBlock",) * num_convolutional + ("EfficientViTBlock",) * num_attention
    scales = ((),) * num_convolutional + ((5,),) * num_attention
    theirs: Any = AutoencoderDC(
        in_channels=3 * config.patch_size**2,
        latent_channels=config.latent_channels,
        attention_head_dim=config.attention_head_dim,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=config.block_channels,
        decoder_block_out_channels=config.block_channels,
        encoder_layers_per_block=config.encoder_layers,
        decoder_layers_per_block=config.decoder_layers,
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        upsample_block_type="pixel_shuffle" if config.narrow else "interpolate",
        downsample_block_type="Conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        encoder_out_shortcut=not config.narrow,
        decoder_in_shortcut=not config.narrow,
    )
    if config.narrow:
        theirs.decoder.norm_out, theirs.decoder.conv_act = nn.Identity(), nn.Identity()
        for module in theirs.decoder.modules():
            if isinstance(module, DCUpBlock2d):
                module.shortcut = False
    return theirs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("encoder_layers", [(1, 1, 2), (0, 1, 2)])
def test_the_autoencoder_is_diffusers(narrow: bool, encoder_layers: tuple[int, ...], dtype: torch.dtype) -> None:
    config = AutoencoderConfig(
        block_channels=(16, 32, 32), encoder_layers=encoder_layers, decoder_layers=(1, 1, 2), num_convolutional_stages=2,
        latent_channels=8, attention_head_dim=16, narrow=narrow, patch_size=2 if narrow else 1,
    )  # fmt: skip
    ours, theirs = DCAE(config), their_autoencoder(config)
    same_weights(ours, theirs, dtype)
    # Large enough for linear attention, and so small that it is quadratic.
    for side in (32, 8):
        x = torch.randn(2, 3 * config.patch_size**2, side, side + 8, dtype=dtype)
        lat = ours.encode(x)
        assert torch.equal(lat, theirs.encode(x).latent)
        assert torch.equal(ours.decode(lat), theirs.decode(lat).sample)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_the_transformer_is_diffusers(patch_size: int, dtype: torch.dtype) -> None:
    config = TransformerConfig(
        num_layers=2, num_heads=4, head_dim=8, num_cross_heads=2, cross_head_dim=16, patch_size=patch_size
    )  # fmt: skip
    ours = SanaTransformer(config, latent_channels=6, caption_channels=20)
    theirs: Any = SanaTransformer2DModel(
        in_channels=6, out_channels=6, num_attention_heads=4, attention_head_dim=8, num_layers=2, num_cross_attention_heads=2,
        cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=20, mlp_ratio=config.mlp_ratio,
        attention_bias=False, sample_size=32, patch_size=patch_size, norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    same_weights(ours, theirs, dtype)
    latent, condition = torch.randn(2, 6, 8, 12, dtype=dtype), torch.randn(2, 5, 20, dtype=dtype)
    timestep = torch.tensor([999, 3])
    assert torch.equal(ours(latent, condition, timestep), theirs(latent, condition, timestep).sample)


def test_random_weights_are_drawn_as_diffusers_draws_them() -> None:
    config = AutoencoderConfig(
        block_channels=(16, 32), encoder_layers=(1, 1), decoder_layers=(1, 1), num_convolutional_stages=1, latent_channels=8,
        attention_head_dim=16,
    )  # fmt: skip
    torch.manual_seed(1)
    ours = DCAE(config).state_dict()
    torch.manual_seed(1)
    theirs = their_autoencoder(config).state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_attention_block_is_compressai() -> None:
    ours, theirs = AttentionBlock(8), TheirAttentionBlock(8)
    same_weights(ours, theirs, torch.float32)
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(ours(x), theirs(x))
