"""peft's low-rank adapters, imported in one place: training them and importing checkpoints that hold some need them."""

from __future__ import annotations

import warnings

from pipeline.codecs.neural import torchvision_operators

torchvision_operators.declare()  # peft imports transformers, which imports torchvision

with warnings.catch_warnings():
    # Deprecations inside the package are its own to mend.
    warnings.simplefilter("ignore")
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

__all__ = ["BaseTunerLayer", "LoraConfig", "inject_adapter_in_model"]
