"""What the training minimises: wrong answers, wrong forms, wrong patches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.starter_vision import dense, samples, slots
from training.starter_vision.model import FrozenLM

_SIZE = 0.11**2  # mean square of a word's embedding


def answers(
    lm: FrozenLM, batch: dict[str, Tensor], tokens: Tensor, image_id: int
) -> tuple[Tensor, Callable[[], dict[str, float]]]:
    """(loss of the answers' tokens, a reader of it by kind of question)."""
    ids, span = batch["ids"].long(), batch["span"]
    x = F.embedding(ids, lm.embed)
    x = x.masked_scatter((ids == image_id)[..., None], tokens.to(x.dtype))
    h = lm.hidden(x)[:, :-1]
    places = torch.arange(ids.shape[1], device=ids.device)
    wanted = (places[None] >= span[:, :1]) & (places[None] < span[:, 1:])
    wanted = wanted[:, 1:]
    logits = F.linear(h[wanted], lm.embed).float()
    each = F.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    kind = batch["kind"].long()[:, None].expand(wanted.shape)[wanted]

    def parts() -> dict[str, float]:
        return {name: each[kind == i].mean().item() for i, name in enumerate(samples.KINDS) if (kind == i).any()}

    return each.mean(), parts


def patches(seen: dict[str, Tensor], batch: dict[str, Tensor], theta: Tensor, side: int) -> dict[str, Tensor]:
    """Losses of the helper heads, weighted."""
    with torch.no_grad(), torch.autocast(theta.device.type, enabled=False):
        true = dense.labels(batch, theta, side)
        weight = torch.ones(seen["kind"].shape[-1], device=theta.device)
        weight[0] = 0.1
    on = true["on"]
    off = (seen["offset"].float() - true["offset"]).abs().sum(-1)
    return {
        "kind": F.cross_entropy(seen["kind"].flatten(0, 1).float(), true["kind"].flatten(), weight, ignore_index=-1),
        "colour": 0.5
        * F.cross_entropy(seen["colour"].flatten(0, 1).float(), true["colour"].flatten(), ignore_index=-1),
        "index": 0.7 * F.cross_entropy(seen["index"].flatten(0, 1).float(), true["index"].flatten(), ignore_index=-1),
        "centre": F.binary_cross_entropy_with_logits(
            seen["centre"][..., 0].float(), true["centre"].float(), pos_weight=torch.tensor(20.0, device=theta.device)
        ),
        "offset": 0.3 * (off * on).sum() / on.sum().clamp(min=1),
    }


def forms(
    tokens: Tensor, batch: dict[str, Tensor], codes: list[Tensor], form: tuple[slots.Slot, ...]
) -> tuple[Tensor, Tensor, Callable[[], dict[str, float]]]:
    """(loss of each token against its slot's other codes, distance to the right codes, a reader of shares right)."""
    wanted = batch["form"].long()
    losses, right = [], {}
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        aims = torch.stack([c[wanted[:, i].clamp(min=0)] for i, c in enumerate(codes)], 1)
        known = (wanted >= 0).float()
        apart = (((tokens - aims) ** 2).mean(-1) * known).sum() / known.sum() / _SIZE
        for i, (slot, code) in enumerate(zip(form, codes, strict=True)):
            if len(code) == 1:
                continue
            logits = 2 * tokens[:, i] @ code.T - (code**2).sum(-1)
            weight = torch.ones(len(code), device=tokens.device)
            weight[0] = 0.15
            true = wanted[:, i]
            loss = F.cross_entropy(logits, true, weight, ignore_index=-1, label_smoothing=0.0, reduction="sum")
            heavy = weight[true.clamp(min=0)] * (true >= 0)
            losses.append(loss / heavy.sum().clamp(min=1) * _WEIGHTS.get(slot.name.partition(".")[0], 1.0))
            right[slot.name] = (logits.argmax(-1), true)

    def shown() -> dict[str, float]:
        groups: dict[str, list[Tensor]] = {}
        for name, (guess, true) in right.items():
            some = true > 0
            groups.setdefault(name.partition(".")[0], []).append((guess == true)[some].float())
        return {f"{name}_right": torch.cat(parts).mean().item() for name, parts in groups.items()}

    return 0.1 * torch.stack(losses).sum(), apart, shown


_WEIGHTS = {"word": 2.0, "count": 1.5, "letter": 0.7, "ground": 0.3, "place": 0.5, "case": 0.5}
