"""The processes that train one model together, one a GPU (``torchrun``); one process alone is a team of one."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Team:
    """``rank`` and ``size``; ``join`` once everything that forks has been started."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))

    def join(self, device: torch.device) -> None:
        """Meet the others."""
        if self.size == 1:
            return
        both = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(both, timeout=timedelta(seconds=90))
        dist.all_reduce(torch.zeros(1, device=device))

    def average(self, model: nn.Module) -> None:
        """Every gradient becomes the mean of all the team's."""
        if self.size == 1:
            return
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def agree(self, value: float) -> float:
        """The first one's value."""
        if self.size == 1:
            return value
        box: Tensor = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(box, 0)
        return float(box.item())

    def leave(self) -> None:
        """All have come this far."""
        if self.size > 1:
            dist.destroy_process_group()
