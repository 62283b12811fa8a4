"""Train the starter model's eyes: first the codes the frozen language model reads, then the tower that writes them.

    python -m training.starter_vision.train codes --kit DIR --out DIR --seconds 80
    python -m training.starter_vision.train eyes --kit DIR --out DIR --codes DIR/codes.pt --seconds 550

    torchrun --nproc-per-node 2 -m training.starter_vision.train eyes …     # on two GPUs, each with a batch of its own

``codes`` learns, through the language model, what every entry of the form (``slots``) should be as an image token.
``eyes`` trains the tower to write those tokens and to tell what every patch shows; in its last part the answers
through the language model count too. The averaged weights (EMA) are what is written and scored.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.starter_vision import feed, samples, scenes, slots
from training.starter_vision.gpu import Pool, augment, shrink
from training.starter_vision.losses import answers, forms, patches
from training.starter_vision.model import Codes, Eyes, EyesConfig, FrozenLM
from training.starter_vision.muon import Muon
from training.starter_vision.score import evaluate, exam
from training.starter_vision.team import Team
from training.starter_vision.tokens import Tokens


def rate(part: float, step: int, warm: int) -> float:
    """Share of the highest rate at ``part`` of the time: a warm-up, then a cosine to nothing."""
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


class Log:
    """Lines of JSON to a file and, now and then, to the terminal."""

    def __init__(self, out: Path, every: float, *, silent: bool) -> None:
        self._file, self._every, self._shown = (out / "log.jsonl").open("a"), every, 0.0
        self._silent = silent

    def write(self, line: dict[str, Any], *, show: bool = False) -> None:
        """Write a line; numbers are shortened."""
        if self._silent:
            return
        line = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in line.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if show or time.monotonic() - self._shown > self._every:
            self._shown = time.monotonic()
            print(json.dumps(line), flush=True)


class Setting:
    """What both stages share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.began = time.monotonic()
        self.args, self.config = args, EyesConfig()
        args.out.mkdir(parents=True, exist_ok=True)
        self.tokens = Tokens(args.kit / "tokenizer.json", slots.TOKENS)
        self.tokens.encode("ready")
        self.team = Team()
        each = args.eval if self.team.rank == 0 else 0
        self.exam = exam(args.kit, args.known, self.tokens, each=each)  # forks
        seed = args.seed * 100 + self.team.rank
        chunks = feed.start(args.kit, workers=args.workers, seed=seed, known=args.known, shares=tuple(args.shares))
        self.device = torch.device(f"cuda:{self.team.rank}" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.team.join(self.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        torch.manual_seed(args.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        self.lm = FrozenLM(sorted(args.kit.glob("lm*.safetensors")), self.device, self.dtype)
        words = json.loads((args.kit / "words.json").read_text("utf-8"))
        self.form = slots.form(scenes.lexicon(words, args.known))
        self.codes = Codes(self.form, self.lm.embed, self.tokens.encode)
        if args.codes and args.codes.exists():
            saved = torch.load(args.codes, map_location=self.device)
            self.codes.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in saved.items()})
        self.pool = Pool(chunks, self.device, args.keep)
        self.log = Log(args.out, args.every, silent=self.team.rank > 0)
        if args.compile:
            for layer in self.lm.layers:
                layer.compile()

    def left(self) -> float:
        """Part of this command's time that is used."""
        return (time.monotonic() - self.began) / self.args.seconds

    def autocast(self) -> torch.autocast:
        """The numbers' precision in matrix products."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.device.type == "cuda")


def train_codes(s: Setting) -> None:
    """Learn the codes through the language model, from the true forms with some noise."""
    optimizer = torch.optim.Adam([{"params": [s.codes.bias]}, {"params": [s.codes.change]}], lr=s.args.rate)
    step, clock = 0, time.monotonic()
    while s.left() < 1:
        now = rate((time.monotonic() - clock) / (s.args.seconds - (clock - s.began)), step, 20)
        for group in optimizer.param_groups:
            group["lr"] = s.args.rate * now
        batch = s.pool.take(max(1, s.args.batch // feed.CHUNK))
        tokens = s.codes(batch["form"])
        with s.autocast():
            loss, parts = answers(s.lm, batch, tokens + 0.03 * torch.randn_like(tokens), s.tokens.image_id)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        if step % 20 == 0 or step < 3:
            s.log.write(
                {"stage": "codes", "step": step, "seconds": time.monotonic() - clock, "loss": loss.item(), **parts()}
            )
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in s.codes.state_dict().items()}, s.args.out / "codes.pt"
    )
    with torch.no_grad(), s.autocast():
        scores = evaluate(s.exam.get(), lambda b: s.codes(b["form"]), s.lm, s.tokens, s.device)
    s.log.write({"stage": "codes", "step": step, "memory": _memory(), "test": scores}, show=True)


def train_eyes(s: Setting) -> None:
    """Train the tower and the connector."""
    args = s.args
    eyes = Eyes(s.config).to(s.device)
    if args.start:
        for file in sorted(args.start.glob("eyes*.pt")):
            eyes.load_state_dict(torch.load(file, map_location=s.device), strict=False)
    step, before = 0, 0.0
    ema = copy.deepcopy(eyes).requires_grad_(False)
    blocks = [p for p in eyes.vision_model.encoder.parameters() if p.ndim == 2]
    others = [p for p in eyes.parameters() if not any(p is q for q in blocks)]
    sets: list[tuple[torch.optim.Optimizer, float]] = [
        (
            torch.optim.AdamW(
                [
                    {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.02},
                    {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
                ]
                + ([] if args.muon else [{"params": blocks, "weight_decay": 0.05}]),
                lr=args.rate,
                betas=(0.9, 0.98),
                fused=s.device.type == "cuda",
            ),
            args.rate,
        )
    ]
    if args.muon:
        sets.append((Muon(blocks, args.muon), args.muon))
    if args.state and args.state.exists():
        saved = torch.load(args.state, map_location=s.device)
        eyes.load_state_dict(saved["eyes"])
        ema.load_state_dict(saved["ema"])
        for (optimizer, _), state in zip(sets, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step, before = saved["step"], saved["spent"]
    if args.compile:
        for block in eyes.vision_model.encoder["layers"]:
            block.compile()
    torch.manual_seed(args.seed * 100 + s.team.rank)  # the weights were drawn alike
    clock, first = time.monotonic(), step
    total = args.total or before + args.seconds - (clock - s.began)
    codes = [s.codes.of(i).detach() for i in range(slots.TOKENS)]
    while s.team.agree(s.left()) < 1:
        spent = before + time.monotonic() - clock
        part = s.team.agree(spent / total)
        for optimizer, high in sets:
            for group in optimizer.param_groups:
                group["lr"] = high * rate(part, step, args.warm)
        batch = s.pool.take(max(1, args.batch // feed.CHUNK))
        pixels, theta = augment(batch["image"])
        speak = part > args.speak
        with s.autocast():
            tokens, seen = eyes(shrink(pixels, s.config.side))
            helpers = patches(seen, batch, theta, s.config.patches)
            written, apart, shown = forms(tokens, batch, codes, s.form)
            loss = written + (0.3 if not speak else 0.1) * apart + (1.0 if not speak else 0.5) * sum(helpers.values())
            said = None
            if speak:
                few = {k: v[: args.few] for k, v in batch.items() if k != "image"}
                said, _ = answers(s.lm, few, tokens[: args.few], s.tokens.image_id)
                loss = loss + said
        for optimizer, _ in sets:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        s.team.average(eyes)
        norm = torch.nn.utils.clip_grad_norm_(eyes.parameters(), 2.0)
        for optimizer, _ in sets:
            optimizer.step()
        decay = min(0.997, (step + 1) / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(eyes.parameters()), 1 - decay)
        step += 1
        if step % 50 == 0 or step - first in (1, 10):
            line = {"stage": "eyes", "step": step, "seconds": spent, "rate": sets[0][0].param_groups[0]["lr"]}
            line |= {"answer": said.item()} if said is not None else {}
            line |= {"form": written.item(), "apart": apart.item(), **{k: v.item() for k, v in helpers.items()}}
            line |= {"norm": float(norm), **shown(), "drawn": s.pool.drawn}
            line |= {
                "per_second": round((step - first) * args.batch * s.team.size / (time.monotonic() - clock)),
                "memory": _memory(),
            }
            s.log.write(line)
        if step % 1000 == 0 and s.team.rank == 0:
            _save(args, ema)
    spent = before + time.monotonic() - clock
    s.team.leave()
    if s.team.rank > 0:
        return
    _save(args, ema)
    if args.state:
        states = [optimizer.state_dict() for optimizer, _ in sets]
        everything = {"eyes": eyes.state_dict(), "ema": ema.state_dict(), "optimizers": states}
        torch.save({**everything, "step": step, "spent": spent}, args.state)
    ema.eval()
    with torch.no_grad(), s.autocast():
        see = lambda b: ema(shrink(b["image"].permute(0, 3, 1, 2).float() / 127.5 - 1, s.config.side))[0]  # noqa: E731
        scores = evaluate(s.exam.get(), see, s.lm if len(s.lm.layers) == 30 else None, s.tokens, s.device, codes=codes)
    s.log.write({"stage": "eyes", "step": step, "seconds": spent, "test": scores}, show=True)


def _memory() -> float:
    return round(torch.cuda.max_memory_allocated() / 1e9, 1) if torch.cuda.is_available() else 0.0


def _save(args: argparse.Namespace, ema: Eyes) -> None:
    """The averaged weights in float16, in files of at most 12 MB."""
    halves = {k: v.half().cpu() for k, v in ema.state_dict().items()}
    files: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in halves.items():
        if size + value.nbytes > 12_000_000:
            files.append({})
            size = 0
        files[-1][name] = value
        size += value.nbytes
    for i, file in enumerate(files):
        torch.save(file, args.out / f"eyes{i}.pt")


def main(argv: Iterable[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("stage", choices=("codes", "eyes"))
    parser.add_argument("--kit", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--codes", type=Path)
    parser.add_argument("--start", type=Path, help="folder of weights to begin with, as this command writes them")
    parser.add_argument("--state", type=Path, help="everything to go on from, read if there and written")
    parser.add_argument("--seconds", type=float, default=500, help="time of the training, start included")
    parser.add_argument("--total", type=float, default=0, help="seconds of the rate's whole schedule")
    parser.add_argument("--known", choices=("all", "half", "none"), default="all", help="common words known whole")
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--few", type=int, default=128, help="of a batch, how many are answered")
    parser.add_argument("--speak", type=float, default=0.6, help="part of the time after which answers count")
    parser.add_argument("--rate", type=float, default=7e-4)
    parser.add_argument("--muon", type=float, default=0.0, help="Muon's rate for the blocks; 0: AdamW for everything")
    parser.add_argument("--warm", type=int, default=200)
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--shares", type=float, nargs=len(samples.KINDS), default=samples.SHARES, help="of each kind")
    parser.add_argument("--keep", type=int, default=300, help="chunks to keep for use again")
    parser.add_argument("--eval", type=int, default=150)
    parser.add_argument("--every", type=float, default=10, help="seconds between lines on the terminal")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    setting = Setting(parser.parse_args(argv))
    (train_codes if setting.args.stage == "codes" else train_eyes)(setting)


if __name__ == "__main__":
    main()
