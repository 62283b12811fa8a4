"""Fit the connector anew to the codes, after the training: what the tower knows, in the words that are read best.

    python -m tools.starter_vision.refit --kit DIR --eyes DIR --codes FILE --known half --seconds 300 --out DIR

The training's last part, through the language model, bends the tokens towards the phrasings it trains on. This ridge
regression from the tower's patches to the codes takes that back; it needs no language model and no GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random

import numpy as np
import torch

from tools.starter_vision import samples, scenes, slots
from tools.starter_vision.gpu import augment, shrink
from tools.starter_vision.model import Codes, Eyes, EyesConfig
from tools.starter_vision.model import _plain as plain
from tools.starter_vision.scenes import Kit
from tools.starter_vision.tokens import Tokens

_SHARES = {"colour_shape": 0.15, "count": 0.2, "relation": 0.3, "emoji": 0.13, "word": 0.22}
_PROJ = "connector.modality_projection.proj.weight"


@torch.no_grad()
def look(eyes: Eyes, kit: Kit, seconds: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(patches of each token [n, slots, hidden * scale²], forms [n, slots]) of training pictures, for so long."""
    rng, end = Random(seed), time.monotonic() + seconds
    seen, wanted = [], []
    while time.monotonic() < end:
        some = [samples.make(rng, "train", kit, rng.choices(list(_SHARES), list(_SHARES.values()))[0]) for _ in range(8)]
        image = torch.from_numpy(np.stack([np.asarray(s.image) for s in some]))
        x, _ = eyes.vision_model(shrink(augment(image)[0], eyes.c.side), eyes.c.middle)
        seen.append(eyes.shuffle(x).half())
        wanted.append(torch.from_numpy(np.stack([s.form({}) for s in some])).long())
    return torch.cat(seen), torch.cat(wanted)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--eyes", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--known", default="none")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--ridge", type=float, nargs="+", default=[0.3, 1, 3, 10])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    state: dict[str, torch.Tensor] = {}
    for part in sorted(args.eyes.glob("eyes*.pt")):
        state.update(torch.load(part, map_location="cpu"))
    eyes = Eyes(EyesConfig())
    eyes.load_state_dict({k: v.float() for k, v in state.items()})
    from safetensors.torch import load_file

    raw: dict[str, torch.Tensor] = {}
    for file in args.kit.glob("lm*.safetensors"):
        raw.update({k: v for k, v in load_file(file).items() if "embed_tokens" in k})
    embed = plain(raw, "model.embed_tokens")
    words = json.loads((args.kit / "words.json").read_text("utf-8"))
    form = slots.form(scenes.lexicon(words, args.known))
    codes = Codes(form, embed, Tokens(args.kit / "tokenizer.json", slots.TOKENS).encode)
    saved = torch.load(args.codes, map_location="cpu")
    codes.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in saved.items()})
    kit = Kit.open(args.kit, "train", known="none")
    seen, wanted = look(eyes, kit, args.seconds, 77)
    print(len(seen), "pictures", flush=True)
    old = state[_PROJ].float()
    with torch.no_grad():
        aims = codes(wanted) - seen.float() @ old.T
    keep = wanted >= 0
    tenth = len(seen) // 8
    x, y = seen[tenth:][keep[tenth:]].float(), aims[tenth:][keep[tenth:]]
    gram, cross = x.T @ x, x.T @ y
    each = [codes.of(i).detach() for i in range(slots.TOKENS)]
    best = (1e9, old)
    for ridge in args.ridge:
        change = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)), cross).T
        left = aims[:tenth] - seen[:tenth].float() @ change.T
        off = float((left[keep[:tenth]] ** 2).mean())
        tokens = seen[:tenth].float() @ (old + change).T
        good = {}
        for i, code in enumerate(each):
            some = wanted[:tenth, i] > 0
            if len(code) > 1 and some.sum() > 5:
                guess = (2 * tokens[:, i] @ code.T - (code**2).sum(-1)).argmax(-1)
                good[form[i].name] = round(float((guess == wanted[:tenth, i])[some].float().mean()), 3)
        print(ridge, "square left", off, "before", float((aims[:tenth][keep[:tenth]] ** 2).mean()), good, flush=True)
        if off < best[0]:
            best = (off, old + change)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save({**state, _PROJ: best[1]}, args.out / "eyes0.pt")


if __name__ == "__main__":
    main()
