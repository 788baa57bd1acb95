"""Workers that train one model: each takes its share of every batch, and all make the same step.

    crops of step s ──┬─► worker 0: share 0, loss, gradient ──┐          ┌─► clip, step, average
                      └─► worker 1: share 1, loss, gradient ──┴── mean ──┴─► the same, to the bit

The objective is a mean over the batch, so the mean of the shares' gradients is the gradient of the whole; all that follows
it (the norm to clip, Muon's orthogonal update, the moving average) then needs no exchange. What each worker draws for itself is
the noise that stands for rounding. Two terms look at the crops of one worker alone: guidance, which contrasts them with each
other, and the weight of the adversary.

Gradients travel when all are there, not bucket by bucket while others are computed, as DistributedDataParallel has it: that
wants one module with one forward pass, and here the adversary asks for gradients in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import SettingError


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """This worker among its like; with more than one, torch's default process group joins them."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is this worker that writes files."""
        return self.rank == 0

    def share(self, num_items: int) -> slice:
        """Which of the items of a batch are this worker's; `num_items` is a multiple of `size`."""
        each = num_items // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, values: Tensor) -> Tensor:
        """Mean over the workers, of the same shape and type on each."""
        if self.size > 1:
            values = values / self.size
            dist.all_reduce(values)
        return values

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give each parameter the mean of its gradients; one that a worker lacks counts as 0, one that all lack stays away."""
        if self.size == 1 or not parameters:
            return
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        flat = torch.cat([has, *(torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters)])
        has, *means = self.average(flat).split([len(parameters), *(p.numel() for p in parameters)])
        for parameter, some, mean in zip(parameters, has.tolist(), means, strict=True):
            if some:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(mean.view(parameter.shape))

    def align(self, module: nn.Module) -> None:
        """Give every worker the parameters and buffers of the first."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in (t for t in (*module.parameters(), *module.buffers()) if t.numel()):
                    whole = tensor.contiguous()
                    dist.broadcast(whole, src=0)
                    tensor.copy_(whole)

    def check_same_step(self, step: int) -> None:
        """See that all start from one checkpoint.

        Raises:
            SettingError: they do not.
        """
        if self.size == 1:
            return
        steps: list[int | None] = [None] * self.size
        dist.all_gather_object(steps, step)
        if len(set(steps)) > 1:
            raise SettingError("the workers found different checkpoints: give an --out folder that all machines see")


ALONE = Team()
