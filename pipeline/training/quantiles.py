"""The auxiliary loss: the median and the ends of each channel of z follow its distribution while that is learned.

    L = sum over channels of |logit F(q) - logit t|,  t = m/2, 1/2, 1 - m/2,  m = 1e-9 the mass that is left outside

F is the learned cumulative distribution, which gets no gradient from L; q are the three quantiles, which get none from
anything else (Balle et al., "Variational image compression with a scale hyperprior", 2018; compressai's
`EntropyBottleneck.loss`). Training rounds z around its medians, and so does the exact codec: where they stay at 0, as without
L, what training sees is not what is coded. The freeze bisects all three anew, since its tables should leave out no more than
they say; it should not move them far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.codecs.ditic.model import DiTIC


class Quantiles:
    """The quantiles of a model with their optimizer."""

    def __init__(self, model: DiTIC, *, learning_rate: float) -> None:
        self._bottleneck = model.codec.entropy_bottleneck
        self._optimizer = torch.optim.Adam([self._bottleneck.quantiles], lr=learning_rate)

    def learn(self) -> Tensor:
        """One step; returns the loss before it, a scalar. The same on every worker: it looks at weights alone."""
        loss = self._bottleneck.loss()
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the quantiles themselves are the model's."""
        return {"optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._optimizer.load_state_dict(state["optimizer"])
