"""Score what was trained on held-out pictures, on the GPU."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from training.starter_vision import samples
from training.starter_vision.model import FrozenLM
from training.starter_vision.scenes import Kit
from training.starter_vision.tokens import Tokens

_TURNS = 16  # tokens of an answer


class Exam:
    """Held-out samples that a process of their own draws meanwhile."""

    def __init__(self, child: int, file: Path) -> None:
        self._child, self._file = child, file

    def get(self) -> dict[str, list[tuple[samples.Sample, np.ndarray, list[int]]]]:
        """Samples by kind with their forms and prompts; waits for them."""
        os.waitpid(self._child, 0)
        found = pickle.loads(self._file.read_bytes())
        self._file.unlink()
        return dict(found)


def exam(folder: Path, known: str, tokens: Tokens, *, each: int) -> Exam:
    """Begin to draw ``each`` held-out samples of every kind. Forks."""
    handle, name = tempfile.mkstemp()
    os.close(handle)
    child = os.fork()
    if child == 0:
        try:
            kit, rng = Kit.open(folder, "test", known=known), Random(4242)
            made = {}
            for kind in samples.KINDS:
                some = [samples.make(rng, "test", kit, kind) for _ in range(each)]
                made[kind] = [(s, s.form(kit.lexicon), tokens.encode(tokens.prompt(s.question))) for s in some]
            Path(name).write_bytes(pickle.dumps(made))
        finally:
            os._exit(0)
    return Exam(child, Path(name))


def evaluate(
    drawn: dict[str, list[tuple[samples.Sample, np.ndarray, list[int]]]],
    see: Callable[[dict[str, Tensor]], Tensor],
    lm: FrozenLM | None,
    tokens: Tokens,
    device: torch.device,
    *,
    codes: list[Tensor] | None = None,
) -> dict[str, Any]:
    """Share of right greedy answers of every kind; with ``codes`` also of right entries of the form."""
    result: dict[str, Any] = {}
    for kind, some in drawn.items():
        each = len(some)
        batch = {
            "image": torch.from_numpy(np.stack([np.asarray(s.image) for s, _, _ in some])).to(device),
            "form": torch.from_numpy(np.stack([f for _, f, _ in some])).to(device),
        }
        seen = see(batch).float()
        if codes is not None:
            wanted = batch["form"].long()
            for i, code in enumerate(codes):
                true = wanted[:, i] > 0
                if len(code) > 1 and true.sum() > each // 10:
                    guess = (2 * seen[:, i] @ code.T - (code**2).sum(-1)).argmax(-1)
                    result[f"{kind}.{i}"] = round(((guess == wanted[:, i]) & true).sum().item() / true.sum().item(), 3)
        if lm is None:
            continue
        ends = torch.tensor([len(p) for _, _, p in some], device=device)
        ids = torch.zeros(each, int(ends.max()) + _TURNS, dtype=torch.long, device=device)
        for i, (_, _, p) in enumerate(some):
            ids[i, : len(p)] = torch.tensor(p)
        rows = torch.arange(each, device=device)
        for step in range(_TURNS):
            x = F.embedding(ids, lm.embed)
            x = x.masked_scatter((ids == tokens.image_id)[..., None], seen.to(x.dtype))
            last = lm.hidden(x)[rows, ends + step - 1]
            ids[rows, ends + step] = F.linear(last, lm.embed).argmax(-1)
        good, spelled, wrong = [], [], 0
        for i, (sample, _, _) in enumerate(some):
            said = ids[i, ends[i] : ends[i] + _TURNS].tolist()
            text = tokens.decode(said[: said.index(2)] if 2 in said else said)
            (spelled if sample.spelled else good).append(sample.right(text))
            if not sample.right(text) and wrong < 6:
                wrong += 1
                print(f"  {kind}: {sample.question} | {sample.answer} | {text}")
        if good:
            result[kind] = round(sum(good) / len(good), 3)
        if spelled:
            result[f"{kind} spelled"] = round(sum(spelled) / len(spelled), 3)
    return result
