"""Muon for the weight matrices, AdamW for the rest.

A photo's low frequencies carry a hundred times the energy of its high ones; with AdamW alone the autoencoder learnt the
latter so slowly that after 200 steps it was 3 dB behind the same steps with Muon (Jordan et al., 2024), whose updates have
all their singular values equal.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn


class MuonAdamW:
    """Two optimizers that step as one. Weights of convolutions (depthwise ones aside) and of linear layers go to Muon;
    adapters go to AdamW."""

    def __init__(self, model: nn.Module, *, learning_rate: float) -> None:
        """Take what of `model` is not frozen but for parameters named `quantiles`, which have an optimizer of their own."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad and not name.endswith("quantiles")}
        ids = {id(p) for p in trained.values()}
        # Equal singular values are no aim for an adapter, which has few of them and starts at zero.
        layers = [m for name, m in model.named_modules() if _has_matrix(m) and ".lora_" not in name]
        self._matrices = [layer.weight for layer in layers if id(layer.weight) in ids]
        taken = {id(p) for p in self._matrices}
        others = [p for p in trained.values() if id(p) not in taken]
        self.parameters = [*self._matrices, *others]
        # Muon takes matrices: out x (kernel x in) views, which share the weights' memory.
        self._views = [nn.Parameter(_as_matrix(p.detach())) for p in self._matrices]
        self._muon = torch.optim.Muon(self._views, lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        fused = others[0].device.type != "meta"
        self._adamw = torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=fused)

    def step(self, *, learning_rate: float) -> None:
        """Apply the gradients of the model's parameters; one that has none stays."""
        for view, parameter in zip(self._views, self._matrices, strict=True):
            assert view.data_ptr() == parameter.data_ptr(), "the weights moved after the optimizer was made"
            view.grad = None if parameter.grad is None else _as_matrix(parameter.grad)
        for optimizer in (self._muon, self._adamw):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """State of both, for a checkpoint."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


def _has_matrix(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _as_matrix(weight: Tensor) -> Tensor:
    # In channels_last the channels lie innermost, so that this order of axes is a view.
    return weight.permute(0, 2, 3, 1).flatten(1) if weight.ndim == 4 else weight
