"""Train the starter model's eyes through the frozen language model.

    python -m tools.starter_vision.train --kit DIR --out DIR --seconds 500 --total 1000

``--total`` seconds are the whole schedule; a run of ``--seconds`` goes on from ``--state`` where that exists.
The averaged weights (EMA) are what is written to ``--out`` and scored.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import queue
import threading
import time
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tools.starter_vision import feed, samples
from tools.starter_vision.model import Eyes, EyesConfig, FrozenLM
from tools.starter_vision.scenes import Kit
from tools.starter_vision.tokens import Tokens


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


def augment(image: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to noisy, shifted, squeezed, brightened pixels [B, 3, H, W] in -1 … 1."""
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
    return (x * gain + shift + noise).clamp(-1, 1)


def losses(
    eyes: Eyes, lm: FrozenLM, batch: dict[str, Tensor], pixels: Tensor, image_id: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss of the answers' tokens, the helper heads' losses)."""
    tokens, cells, labels, counts, letters = eyes(pixels)
    ids, span = batch["ids"].long(), batch["span"]
    x = F.embedding(ids, lm.embed)
    x = x.masked_scatter((ids == image_id)[..., None], tokens.to(x.dtype))
    h = lm.hidden(x)[:, :-1]
    places = torch.arange(ids.shape[1], device=ids.device)
    wanted = (places[None] >= span[:, :1]) & (places[None] < span[:, 1:])
    wanted = wanted[:, 1:]
    logits = F.linear(h[wanted], lm.embed).float()
    answer = F.cross_entropy(logits, ids[:, 1:][wanted])
    weight = torch.full((samples.CELL_CLASSES,), 1.0, device=ids.device)
    weight[0] = 0.15
    helpers = {
        "cell": F.cross_entropy(cells.flatten(0, 1).float(), batch["cells"].long().flatten(), weight),
        "label": F.cross_entropy(labels.float(), batch["label"].long(), ignore_index=-1),
        "count": F.cross_entropy(counts.float(), batch["number"].long(), ignore_index=-1),
        "letter": F.cross_entropy(letters.flatten(0, 1).float(), batch["letters"].long().flatten(), ignore_index=-1),
    }
    return answer, helpers


@torch.no_grad()
def evaluate(
    eyes: Eyes, lm: FrozenLM, folder: Path, tokens: Tokens, device: torch.device, *, each: int, split: str = "test"
) -> dict[str, float]:
    """Share of right greedy answers of every kind, on ``each`` samples of a split."""
    kit, rng = Kit.open(folder, split), Random(4242)
    result = {}
    for kind in samples.KINDS:
        batch = [samples.make(rng, split, kit, kind) for _ in range(each)]
        prompts = [tokens.encode(tokens.prompt(s.question)) for s in batch]
        ends = torch.tensor([len(p) for p in prompts], device=device)
        ids = torch.zeros(each, int(ends.max()) + 16, dtype=torch.long, device=device)
        for i, p in enumerate(prompts):
            ids[i, : len(p)] = torch.tensor(p)
        pixels = torch.from_numpy(np.stack([np.asarray(s.image) for s in batch])).to(device)
        seen = eyes(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)[0]
        for step in range(16):
            x = F.embedding(ids, lm.embed)
            x = x.masked_scatter((ids == tokens.image_id)[..., None], seen.to(x.dtype))
            last = lm.hidden(x)[torch.arange(each, device=device), ends + step - 1]
            ids[torch.arange(each, device=device), ends + step] = F.linear(last, lm.embed).argmax(-1)
        good = 0
        for i, sample in enumerate(batch):
            said = ids[i, ends[i] : ends[i] + 16].tolist()
            text = tokens.decode(said[: said.index(2)] if 2 in said else said)
            good += sample.right(text)
            if i < 4:
                print(f"  {kind}: {sample.question} | {sample.answer} | {text}")
        result[kind] = good / each
    return result


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="optimizer state to go on from, and to write")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--total", type=float, default=1000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--keep", type=int, default=600, help="chunks to keep for use again")
    parser.add_argument("--eval", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    began = time.monotonic()
    config = EyesConfig()
    tokens = Tokens(args.kit / "tokenizer.json", config.tokens)
    chunks = feed.start(args.kit, workers=args.workers, seed=args.seed, image_tokens=config.tokens)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    lm = FrozenLM(sorted(args.kit.glob("lm*.safetensors")), device, dtype)
    eyes = Eyes(config).to(device)
    ema = copy.deepcopy(eyes).requires_grad_(False)
    slow = [p for p in eyes.parameters() if p.ndim < 2]
    fast = [p for p in eyes.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": fast, "weight_decay": 0.05}, {"params": slow, "weight_decay": 0.0}],
        lr=args.rate,
        betas=(0.9, 0.98),
        fused=device.type == "cuda",
    )
    step, spent = 0, 0.0
    if args.state and args.state.exists():
        saved = torch.load(args.state, map_location=device)
        eyes.load_state_dict(saved["eyes"])
        ema.load_state_dict(saved["ema"])
        step, spent = saved["step"], saved["spent"]
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
    if args.compile:
        for block in eyes.vision_model.encoder["layers"]:
            block.compile()
        for layer in lm.layers:
            layer.compile()
    pool = Pool(chunks, device, args.keep)
    args.out.mkdir(parents=True, exist_ok=True)
    log = (args.out / "log.jsonl").open("a")
    first, warm = step, 300 if not spent else 100
    clock, shown = time.monotonic(), 0.0
    while True:
        done = spent + time.monotonic() - clock
        if time.monotonic() - began > args.seconds:
            break
        part = min(1.0, done / args.total)
        rate = args.rate * min(1.0, (step - first + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = pool.take(max(1, args.batch // feed.CHUNK))
        pixels = augment(batch["image"])
        with torch.autocast(device.type, dtype, enabled=device.type == "cuda"):
            answer, helpers = losses(eyes, lm, batch, pixels, tokens.image_id)
        loss = answer + (0.3 if part < 0.6 else 0.15) * sum(helpers.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(eyes.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(eyes.parameters()), 1 - decay)
        step += 1
        if step % 50 == 0 or step - first in (1, 5, 10):
            now = time.monotonic()
            line = {
                "step": step,
                "seconds": round(done, 1),
                "rate": rate,
                "answer": round(answer.item(), 4),
                **{k: round(v.item(), 4) for k, v in helpers.items()},
                "norm": round(float(norm), 3),
                "drawn": pool.drawn,
                "per_second": round((step - first) * args.batch / (now - clock)),
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            if now - shown > 15 or step - first < 20:
                print(json.dumps(line), flush=True)
                shown = now
        if step % 1000 == 0:
            _save(args, eyes, ema, optimizer, step, done)
    spent += time.monotonic() - clock
    _save(args, eyes, ema, optimizer, step, spent)
    with torch.autocast(device.type, dtype, enabled=device.type == "cuda"):
        ema.eval()
        scores = evaluate(ema, lm, args.kit, tokens, device, each=args.eval)
    print(json.dumps({"step": step, "spent": round(spent), "drawn": pool.drawn, "test": scores}), flush=True)
    log.write(json.dumps({"step": step, "seconds": round(spent, 1), "test": scores}) + "\n")
    log.close()


def _save(args: argparse.Namespace, eyes: Eyes, ema: Eyes, optimizer: object, step: int, spent: float) -> None:
    """The averaged weights in float16, in files of at most 12 MB; and everything to go on from."""
    halves = {k: v.half().cpu() for k, v in ema.state_dict().items()}
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in halves.items():
        if size + value.nbytes > 12_000_000:
            parts.append({})
            size = 0
        parts[-1][name] = value
        size += value.nbytes
    for i, part in enumerate(parts):
        torch.save(part, args.out / f"eyes{i}.pt")
    if args.state:
        torch.save(
            {
                "eyes": eyes.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),  # type: ignore[attr-defined]
                "step": step,
                "spent": spent,
            },
            args.state,
        )


if __name__ == "__main__":
    main()
