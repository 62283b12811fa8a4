"""Muon: momentum whose every step is made orthogonal; for the square-ish matrices of the tower's blocks."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices to a stack [n, rows, columns], by Newton-Schulz."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Keeps matrices of one shape in one group, so that a step is a few batched products."""

    def __init__(self, matrices: list[Tensor], rate: float, *, momentum: float = 0.95, decay: float = 0.02) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in matrices:
            shapes.setdefault(p.shape, []).append(p)
        super().__init__([{"params": g} for g in shapes.values()], {"lr": rate, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            params = group["params"]
            grads = torch.stack([p.grad for p in params])
            state = self.state[params[0]]
            if "buffer" not in state:
                state["buffer"] = torch.zeros_like(grads)
            buffer = state["buffer"]
            buffer.lerp_(grads, 1 - group["momentum"])
            update = orthogonal(grads.lerp(buffer, group["momentum"]))
            rate = group["lr"] * max(1.0, grads.shape[-2] / grads.shape[-1]) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * group["decay"])
            torch._foreach_add_(params, list(update.unbind()), alpha=-rate)
