"""The adversarial term: a discriminator looks at patches, and the decoder should leave it undecided.

    discriminator  (mean relu(1 - D(x)) + mean relu(1 + D(x_hat))) / 2
    codec          - mean D(x_hat),  times  |d distortion / d w| / (|d adversarial / d w| + 1e-4)

D gives one number a patch of 70 x 70 pixels (PatchGAN, Isola et al., 2017); w are the weights of the decoder's last layer
(Esser et al., "Taming Transformers", 2021, equation 7), so that the term pulls as hard as the distortion whatever its scale.
DiT-IC weighs it by 0.5. A discriminator that begins while photos still come back blurred wins at once: it joins late.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.training.parallel import ALONE, Team

_WIDTH = 64
_MOST = 1e4


class PatchDiscriminator(nn.Module):
    """B x 3 x H x W, about [-1, 1] -> B x 1 x about H/8 x W/8, above 0 for patches that look like a photo's."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, _WIDTH, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = _WIDTH
        for stride in (2, 2, 1):
            wider = min(2 * width, 8 * _WIDTH)
            # Norms over each photo, not over the batch: those would tell photos from decoded ones by their company.
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(32, wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, photos: Tensor) -> Tensor:
        return self.layers(photos)


class Adversary:
    """The discriminator with its optimizer."""

    def __init__(self, *, learning_rate: float, device: str) -> None:
        self.discriminator = PatchDiscriminator().to(device)
        self._optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )

    def term(self, x_hat: Tensor, distortion: Tensor, last_weights: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to the objective, for a weight of 1, and the bare term; both scalars.

        Args:
            x_hat: B x 3 x H x W, with its graph.
            distortion: scalar that x_hat went into; what else it holds does not count.
            last_weights: of the decoder's last layer; they must take gradients.
        """
        self.discriminator.requires_grad_(False)
        bare = -self.discriminator(x_hat).mean()
        return adaptive_weight(distortion, bare, last_weights) * bare, bare.detach()

    def learn(self, x: Tensor, x_hat: Tensor, team: Team = ALONE) -> Tensor:
        """One step of the discriminator; returns its loss, a scalar, 1 where it cannot tell."""
        self.discriminator.requires_grad_(True)
        real, made = self.discriminator(x), self.discriminator(x_hat.detach())
        loss = (torch.relu(1 - real).mean() + torch.relu(1 + made).mean()) / 2
        self._optimizer.zero_grad()
        loss.backward()
        team.average_gradients(list(self.discriminator.parameters()))
        self._optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Both states, for a checkpoint."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])


def adaptive_weight(distortion: Tensor, adversarial: Tensor, weights: Tensor) -> Tensor:
    """How much longer the first term's gradient is than the second's, at `weights`; a constant, at most 10,000."""
    lengths = [torch.autograd.grad(term, weights, retain_graph=True)[0].norm() for term in (distortion, adversarial)]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(max=_MOST).detach()
