"""Self-distillation: the latent that comes out of the one step should point where the encoder's latent points.

    L = mean over positions of relu(1 - m - cos(x0, lat)),  cos over the channels of a position

Source: DiT-IC (arXiv 2603.13162), its self-distillation alignment; the release takes m = 0.5 and weighs L by 0.05. Inside the
margin there is no force, and none on the length of the latent at any time: those are the distortion's to decide.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def margin_cosine(x0: Tensor, lat: Tensor, *, margin: float) -> Tensor:
    """Scalar, 0 to 2 - margin; no gradient reaches `lat`, which is the teacher.

    Args:
        x0: latent after the one step, B x C x h x w.
        lat: what the encoder made of the photo, of the same shape.
        margin: m; the angle whose cosine is 1 - m is near enough.
    """
    cosine = F.cosine_similarity(x0.float(), lat.detach().float(), dim=1)
    return torch.relu(1 - margin - cosine).mean()
