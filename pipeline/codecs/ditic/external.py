"""The building blocks taken from diffusers, compressai and peft, imported in one place."""

from __future__ import annotations

import warnings

from pipeline.codecs import torchvision_operators

# compressai and transformers (through peft) import torchvision.
torchvision_operators.declare()

with warnings.catch_warnings():
    # Deprecations inside these packages are theirs to mend.
    warnings.simplefilter("ignore")
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional
    from compressai.layers import AttentionBlock
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d
    from diffusers.models.normalization import RMSNorm
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

__all__ = [
    "AttentionBlock",
    "AutoencoderDC",
    "DCUpBlock2d",
    "BaseTunerLayer",
    "EntropyBottleneck",
    "GaussianConditional",
    "LoraConfig",
    "RMSNorm",
    "SanaTransformer2DModel",
    "inject_adapter_in_model",
]
