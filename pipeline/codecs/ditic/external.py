"""compressai's entropy models, imported in one place: training, freezing and the release's own streams need them.

Importing them takes longer than decoding a photo, so nothing that decodes does.
"""

from __future__ import annotations

import warnings

from pipeline.codecs.neural import torchvision_operators

torchvision_operators.declare()  # compressai imports torchvision

with warnings.catch_warnings():
    # Deprecations inside the package are its own to mend.
    warnings.simplefilter("ignore")
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional

__all__ = ["EntropyBottleneck", "GaussianConditional"]
