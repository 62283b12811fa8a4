"""Pictures on the GPU: the pool they are taken from, and what is done to each at every use."""

from __future__ import annotations

import queue
import threading
from random import Random

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.starter_vision import feed


class Pool:
    """Chunks on the GPU: fresh ones first, then old ones again (with other noise), so that drawing never waits."""

    def __init__(self, chunks: object, device: torch.device, keep: int) -> None:
        self._chunks, self._device, self._keep = chunks, device, keep
        self._old: list[dict[str, Tensor]] = []
        self._new: queue.Queue[dict[str, Tensor]] = queue.Queue(8)
        self._rng = Random(1)
        self.drawn = 0
        threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        for chunk in self._chunks:  # type: ignore[attr-defined]
            self._new.put({k: torch.from_numpy(np.array(v)).to(self._device) for k, v in chunk.items()})

    def take(self, count: int) -> dict[str, Tensor]:
        """A batch of ``count`` chunks."""
        picked = []
        for _ in range(count):
            try:
                chunk = self._new.get(block=len(self._old) < 24)
                self.drawn += feed.CHUNK
                if len(self._old) >= self._keep:
                    self._old[self._rng.randrange(len(self._old))] = chunk
                else:
                    self._old.append(chunk)
            except queue.Empty:
                chunk = self._rng.choice(self._old)
            picked.append(chunk)
        return {k: torch.cat([c[k] for c in picked]) for k in picked[0]}


def augment(image: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [B, H, W, 3] to noisy, shifted, squeezed, brightened pixels [B, 3, H, W] in -1 … 1, and how they moved."""
    b, device = image.shape[0], image.device
    x = image.permute(0, 3, 1, 2).float() / 127.5 - 1
    scale = torch.empty(b, 2, device=device).uniform_(0.94, 1.18)
    moved = torch.empty(b, 2, device=device).uniform_(-1, 1) * (scale - 1).clamp(min=0.0)
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale[:, 0], scale[:, 1], moved
    keep = torch.rand(b, device=device) < 0.4
    theta[keep] = torch.eye(2, 3, device=device)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    half = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
    blurred = (torch.rand(b, 1, 1, 1, device=device) < 0.15).float() * torch.rand(b, 1, 1, 1, device=device)
    x = x + (half - x) * blurred
    gain = torch.empty(b, 1, 1, 1, device=device).uniform_(0.9, 1.08)
    shift = torch.empty(b, 1, 1, 1, device=device).uniform_(-0.06, 0.06)
    noise = torch.empty(b, 1, 1, 1, device=device).uniform_(0, 0.06) * torch.randn_like(x)
    return (x * gain + shift + noise).clamp(-1, 1), theta


def shrink(pixels: Tensor, side: int) -> Tensor:
    """As the processor does it: bilinear, smoothed."""
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
