"""What every patch of an augmented picture shows, worked out on the GPU from where things were drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from training.starter_vision.scenes import SIDE


def labels(batch: dict[str, Tensor], theta: Tensor, patches: int) -> dict[str, Tensor]:
    """Per patch [B, patches²]: ``kind`` (class, -1 open), ``colour`` and ``index`` (-1 none), ``centre`` (0 or 1),
    ``offset`` [.., 2] to the thing's centre in its radii, and ``on`` where that holds.

    ``theta``: [B, 2, 3] as given to ``affine_grid``.
    """
    device = theta.device
    line = (torch.arange(patches, device=device) + 0.5) * 2 / patches - 1
    v, u = torch.meshgrid(line, line, indexing="ij")
    u, v = u.flatten(), v.flatten()
    x = (theta[:, 0, 0, None] * u + theta[:, 0, 2, None] + 1) * SIDE / 2
    y = (theta[:, 1, 1, None] * v + theta[:, 1, 2, None] + 1) * SIDE / 2
    half = SIDE / patches / 2 * theta[:, None, (0, 1), (0, 1)]  # half a patch in drawn pixels [B, 1, 2]

    things = batch["things"]
    dx, dy = things[:, None, :, 0] - x[..., None], things[:, None, :, 1] - y[..., None]  # [B, P, T]
    r = things[:, None, :, 2]
    there = r > 0
    apart = torch.where(there, torch.hypot(dx, dy) / r.clamp(min=1), 99.0)
    centred = there & (dx.abs() <= half[:, :, None, 0]) & (dy.abs() <= half[:, :, None, 1])
    apart = torch.where(centred, 0.0, apart)
    near, which = apart.min(-1)
    kind = torch.zeros_like(which)
    row = torch.arange(len(kind), device=device)[:, None]
    label, colour = things[row, which, 3].long(), things[row, which, 4].long()
    on = near < 0.7
    kind = torch.where(on, label, torch.where(near < 1.15, -1, 0))
    colour = torch.where(on, colour, -1)
    offset = torch.stack([dx, dy], -1).gather(2, which[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    offset = offset / things[row, which, 2].clamp(min=1)[..., None]

    letters, word = batch["letters"], batch["word"]
    cos, sin = torch.cos(torch.deg2rad(word[:, 1])), torch.sin(torch.deg2rad(word[:, 1]))
    dx, dy = x[..., None] - letters[:, None, :, 0], y[..., None] - letters[:, None, :, 1]
    along = dx * cos[:, None, None] - dy * sin[:, None, None]
    across = dx * sin[:, None, None] + dy * cos[:, None, None]
    wide = letters[:, None, :, 2]
    inside = (wide > 0) & (across.abs() <= word[:, 0, None, None].clamp(min=5))
    far = torch.where(inside, along.abs() / wide.clamp(min=1), 99.0)
    near, index = far.min(-1)
    lettered = near <= 1
    kind = torch.where(lettered, letters[row, index, 3].long(), kind)
    index = torch.where(lettered, index, -1)
    return {
        "kind": kind,
        "colour": colour,
        "index": index,
        "centre": centred.any(-1),
        "offset": offset.clamp(-1.5, 1.5),
        "on": on,
    }
