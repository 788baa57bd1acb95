"""The tokens that steer the transformer: pooled from the decoded latent, no text, no extra bits.

prompt  B x C x H/f x W/f  ->  condition  B x (48 + 29) x 2304
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.codecs.ditic.config import ConditionConfig
from pipeline.codecs.ditic.sana_blocks import filled


class Condition(nn.Module):
    """Adaptive average pool over the flattened positions, learned tokens appended, and an MLP with SiLU."""

    def __init__(self, config: ConditionConfig, prompt_channels: int) -> None:
        super().__init__()
        self.num_latent_tokens = config.num_latent_tokens
        self.pattern = filled(
            torch.empty(1, config.num_learned_tokens, prompt_channels), lambda tokens: tokens.normal_().mul_(0.02)
        )
        c = config.channels
        self.align = nn.Sequential(nn.Linear(prompt_channels, c), nn.SiLU(), nn.Linear(c, c), nn.SiLU(), nn.Linear(c, c))

    def forward(self, prompt: Tensor) -> Tensor:  # B x C x h x w -> B x tokens x channels
        tokens = F.adaptive_avg_pool1d(prompt.flatten(2), self.num_latent_tokens).transpose(1, 2)
        pattern = self.pattern.expand(prompt.shape[0], -1, -1)
        return self.align(torch.cat((tokens, pattern), dim=1))
