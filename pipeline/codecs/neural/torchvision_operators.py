"""What torchvision needs before it can be imported beside a CPU-only torch.

The torchvision wheel of PyPI is built for CUDA; beside a CPU-only torch its native library does not load, and its import then
stops at the fake kernels of operators that were never defined. Declaring these operators is enough: nothing here calls them.
"""

from __future__ import annotations

from functools import cache

import torch


@cache  # and kept: collecting the library would undefine the operators
def declare() -> torch.library.Library | None:
    """Declare the operators that are missing; call it before whatever imports torchvision."""
    if torch.version.cuda is not None:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
