"""The building blocks taken from diffusers, compressai and peft, imported in one place.

compressai and transformers (through peft) import torchvision. The torchvision wheel of PyPI is built for CUDA; beside a
CPU-only torch its native library does not load, and its import then stops at the fake kernels of operators that
were never defined. Declaring these operators is enough: nothing here calls them.
"""

from __future__ import annotations

import warnings

import torch

_LIBRARY: torch.library.Library | None = None
if torch.version.cuda is None:
    _LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # kept: collecting it would undefine the operators
    for _name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, _name):
            _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

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
