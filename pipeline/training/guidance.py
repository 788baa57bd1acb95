"""Latent-conditioned guidance: the transformer's condition should say what a caption of the photo would.

    L = (cross_entropy(S, i) + cross_entropy(S^T, i)) / 2,   S_ij = exp(tau) * cos(P mean over tokens of condition_i, text_j)

Source: DiT-IC (arXiv 2603.13162), its latent-conditioned guidance; InfoNCE over both directions with a learned temperature is
CLIP's (Radford et al., 2021). The text embeddings lie beside the photos (`data.load_with_texts`), made by whatever model the
user likes; P maps the condition to their size and is thrown away after training. At inference there is no text.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.training.parallel import ALONE, Team

_MOST = math.log(100)
"""Of tau, as in CLIP: a sharper softmax only makes training unstable."""


class Guide:
    """The alignment with its optimizer: P and tau train with the codec, and stay behind in its checkpoint."""

    def __init__(self, condition_channels: int, text_channels: int, *, learning_rate: float, device: str) -> None:
        self._alignment = Alignment(condition_channels, text_channels).to(device)
        self._optimizer = torch.optim.AdamW(self._alignment.parameters(), lr=learning_rate, weight_decay=0.0)

    def term(self, condition: Tensor, text: Tensor) -> Tensor:
        """As `Alignment`."""
        return self._alignment(condition, text)

    def learn(self, team: Team = ALONE) -> None:
        """Apply and forget the gradients that the objective left."""
        team.average_gradients(list(self._alignment.parameters()))
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Both states, for a checkpoint."""
        return {"alignment": self._alignment.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._alignment.load_state_dict(state["alignment"])
        self._optimizer.load_state_dict(state["optimizer"])


class Alignment(nn.Module):
    """P and tau."""

    def __init__(self, condition_channels: int, text_channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(condition_channels, text_channels)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, condition: Tensor, text: Tensor) -> Tensor:
        """Scalar, 0 or more; 0 where fewer than two different texts are at hand.

        Args:
            condition: B x tokens x channels.
            text: B x E; a row of zeros where a photo has none. Crops of one photo share theirs, and are not held against
                each other.
        """
        known = text.square().sum(1) > 0
        text = F.normalize(text[known].float(), dim=1)
        seen = F.normalize(self.project(condition[known].float().mean(1)), dim=1)
        same = (text @ text.T > 1 - 1e-5).fill_diagonal_(False)
        if len(text) < 2 or bool((same.sum(1) == len(text) - 1).all()):
            return 0.0 * self.log_scale
        similarities = (self.log_scale.clamp(max=_MOST).exp() * seen @ text.T).masked_fill(same, -torch.inf)
        own = torch.arange(len(text), device=text.device)
        return (F.cross_entropy(similarities, own) + F.cross_entropy(similarities.T, own)) / 2
