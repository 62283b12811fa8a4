"""A look at a model just loaded: what it gives together, in pieces and from a kept prefix, against itself alone.

Which of a family's parts work in which way is known of few families, and changes with every mlx-vlm. So a model is
asked: three short texts of different lengths are processed together and decoded together, one is processed in two
pieces with the caches copied between them, and a picture is cut in two where the model sees. What differs from the same
alone by more than rounding is turned off in the model's record, and the model serves without it.

A build that was looked at before is known by its content (``findings``): its findings are read from a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from sidecar.backend import caches, findings, prompts
from sidecar.backend.families import Capabilities
from sidecar.backend.passes import PromptBatch, RowState, decode, decoding_tokens, mixed
from sidecar.backend.positions import Embedded, embed
from sidecar.errors import check_memory

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel

log = logging.getLogger("sidecar.engine")

VERSION = 2  # raise when the checks change: what was found before is looked at anew
BUDGET = 10.0  # seconds after which what is left is not looked at: a slow machine's first load is no time for it
STEPS = 2  # tokens decoded after each prompt
_TEXT = "The quick brown fox jumps over the lazy dog, then counts: one two three four five six seven eight nine ten."
_LENGTHS = (5, 9, 14)  # tokens
_MOST = 8  # of the likeliest tokens whose log-probabilities are compared
_BOUNDS = {mx.float32: 0.01, mx.float16: 0.4, mx.bfloat16: 0.6}
"""Difference of a log-probability that rounding explains, by the type the model computes in."""


@dataclass
class Report:
    """What was found, a line a check: how far apart the scores were, or why it could not be looked at."""

    lines: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # capability -> reason
    complete: bool = True  # else it is looked at again at the next load

    def apply(self, can: Capabilities) -> None:
        """Turn off what did not work."""
        for name, reason in self.failed.items():
            can.rule_out(name, reason)


def check(
    loaded: LoadedModel,
    *,
    remember: Path | None = None,
    between: Callable[[], None] = lambda: None,
    thorough: bool = False,
) -> Report:
    """Look at a loaded model, write into its record what it can't do, and return what was found.

    ``remember``: the file that findings are kept in; ``between`` is called between checks, so that others go on.
    ``thorough``: look anew, whatever was found before, and take all the time that it takes.
    """
    key = findings.fingerprint(loaded.path, VERSION)
    known = findings.read(remember).get(key) if remember is not None and not thorough else None
    if isinstance(known, dict):
        report = Report(dict(known.get("lines", {})), dict(known.get("failed", {})))
    else:
        report = _Check(loaded, between, float("inf") if thorough else BUDGET).run()
        if remember is not None and report.complete:
            findings.write(remember, key, {"lines": report.lines, "failed": report.failed})
    report.apply(loaded.can)
    if loaded.can.batch or loaded.can.cut:
        loaded.can.rule_out("mix", loaded.can.batch or loaded.can.cut)
    if not report.complete:  # mlx-vlm has no such passes: they are made only where they were seen to be right
        loaded.can.rule_out(
            "mix", "rows and a prompt in one pass were not looked at: it takes too long on this machine"
        )
    for name, reason in report.failed.items():
        log.warning("%s: %s is turned off: %s", loaded.path.name, name, reason)
    return report


class _Check:
    def __init__(self, loaded: LoadedModel, between: Callable[[], None], budget: float) -> None:
        self._loaded = loaded
        self._can = loaded.can
        self._lm = getattr(loaded.model, "language_model", loaded.model)
        self._between = between
        self._report = Report()
        self._bound = 0.0
        self._end = time.monotonic() + budget

    def run(self) -> Report:
        texts = self._texts()
        if not self._quick(texts[0][:1]):
            self._report.lines["all of it"] = "not looked at: a single token takes too long on this machine"
            self._report.complete = False
            return self._report
        alone = [self._alone(tokens) for tokens in texts]
        if not self._can.group:
            self._try("group", "prompts processed together", lambda: self._group(texts, alone))
        if not self._can.batch:
            self._try("batch", "rows decoded together", lambda: self._joined(texts, alone))
        if not self._can.cut:
            self._try("cut", "a prompt in pieces", lambda: self._cut(texts[-1], alone[-1], copied=False))
        if not (self._can.mix or {"batch", "cut"} & set(self._report.failed)):
            self._try("mix", "rows and a prompt in one pass", lambda: self._mixed(texts, alone))
        if not (self._can.keep or self._can.cut or "cut" in self._report.failed):
            self._try("keep", "a prompt after a kept prefix", lambda: self._cut(texts[-1], alone[-1], copied=True))
        if not self._can.see:
            self._picture()
        return self._report

    def _quick(self, token: list[int]) -> bool:
        """Whether one token is through in a tenth of what is left: some 60 follow, and nothing can end one on its way.

        Without it a quantized model on the CPU backend, whose products are not made for that, took minutes. What the
        first token takes to compile kernels, a second one doesn't.
        """
        for _ in range(2):
            began = time.monotonic()
            left = self._end - began
            mx.eval(self._prompt([token]).finish()[0])
            took = time.monotonic() - began
            if took < left / 10 or took > left / 2:
                return took < left / 10
        return False

    def _texts(self) -> list[list[int]]:
        ids = [int(i) for i in self._loaded.tokenizer(_TEXT, add_special_tokens=False)["input_ids"]]
        ids = (ids * (1 + max(_LENGTHS) // max(1, len(ids))))[: max(_LENGTHS) + len(_LENGTHS)]
        return [ids[start : start + length] for start, length in enumerate(_LENGTHS)]

    def _alone(self, tokens: list[int]) -> list[mx.array]:
        """Return a text's log-probabilities, processed whole and alone, then after each of its next tokens."""
        batch = self._prompt([tokens])
        logits, state = batch.finish()
        if not self._bound:
            self._bound = _BOUNDS.get(logits.dtype, 0.01)
        return self._decoded(logits, batch.cache, state, None)

    def _prompt(self, texts: Sequence[list[int]], **options: Any) -> PromptBatch:
        prompts = [embed(self._loaded.model, tokens) for tokens in texts]
        return PromptBatch(self._loaded.model, range(len(texts)), texts, prompts, **options)

    def _decoded(
        self, logits: mx.array, cache: list[Any], state: RowState, follow: Sequence[list[mx.array]] | None
    ) -> list[mx.array]:
        """Decode ``STEPS`` tokens, the likeliest or ``follow``'s; return all log-probabilities [B, V]."""
        out = [_logprobs(logits)]
        for step in range(STEPS):
            ids = mx.argmax(out[-1] if follow is None else mx.concatenate([f[step] for f in follow]), axis=-1)
            out.append(_logprobs(decode(self._lm, ids[:, None], cache, state)[:, -1, :]))
        mx.eval(out)
        return out

    def _group(self, texts: Sequence[list[int]], alone: Sequence[list[mx.array]]) -> float:
        batch = self._prompt(texts)
        logits, state = batch.finish()
        return _difference(self._decoded(logits, batch.cache, state, alone), alone)

    def _joined(self, texts: Sequence[list[int]], alone: Sequence[list[mx.array]]) -> float:
        """Join rows that were each processed alone; a row decodes a step before the next one joins."""
        batch = self._prompt([texts[0]])
        first, state = batch.finish()
        cache = batch.cache
        step = _logprobs(decode(self._lm, mx.argmax(first, axis=-1)[:, None], cache, state)[:, -1, :])
        other = self._prompt([texts[1]])
        second, other_state = other.finish()
        if not state.joins(other_state):
            raise ValueError("the rows' states can't be joined")
        cache, state = caches.extend(cache, other.cache), state.joined(other_state)
        ids = mx.concatenate([mx.argmax(step, axis=-1), mx.argmax(second, axis=-1)])
        both = _logprobs(decode(self._lm, ids[:, None], cache, state)[:, -1, :])
        wanted = [alone[0][2], alone[1][1]]
        return max(_apart(both[i : i + 1], want) for i, want in enumerate(wanted))

    def _cut(self, tokens: list[int], alone: list[mx.array], *, copied: bool) -> float:
        """Process a text in two pieces; ``copied``: the second on a copy of the first one's caches."""
        batch = self._prompt([tokens])
        if batch.whole:
            return 0.0
        half = len(tokens) // 2
        if copied:
            kept = self._prompt([tokens[: half + 1]])
            kept.step(half)
            cache = caches.snapshot(kept.cache, 0)
            if cache is None:
                raise ValueError("its caches can't be copied")
            batch = self._prompt([tokens], cache=cache, start=half)
        else:
            batch.step(half)
        logits, state = batch.finish()
        return _difference(self._decoded(logits, batch.cache, state, [alone]), [alone])

    def _mixed(self, texts: Sequence[list[int]], alone: Sequence[list[mx.array]]) -> float:
        """Decode one row in the same passes that process two pieces of another's prompt; then decode both together."""
        batch, other = self._prompt([texts[0]]), self._prompt([texts[2]])
        if not (batch.mixes and other.mixes):
            raise ValueError("its prompts have inputs that a shared pass can't carry")
        logits, state = batch.finish(cut=True)
        cache, apart = batch.cache, [_apart(_logprobs(logits), alone[0][0])]
        for step in range(2):
            ids = mx.argmax(alone[0][step], axis=-1)
            row = decoding_tokens(self._loaded.model, ids, cache, state)
            piece = other.piece(len(texts[2]) // 2 if not step else other.remaining)
            if (row.positions is None) != (piece.positions is None):
                raise ValueError("its rows and prompts have positions of different kinds")
            scores = mixed(self._lm, [row, piece], [row, piece] if step else [row])
            other.took(piece.shape[1])
            apart.append(_apart(_logprobs(scores[:1]), alone[0][step + 1]))
        apart.append(_apart(_logprobs(scores[1:]), alone[2][0]))
        joined = caches.extend(cache, other.cache)
        ids = mx.concatenate([mx.argmax(alone[n][2 if n == 0 else 0], axis=-1) for n in (0, 2)])
        both = decode(self._lm, ids[:, None], joined, state.joined(other.row_state(piece)))[:, -1, :]
        apart.append(_apart(_logprobs(both[1:]), alone[2][1]))
        return max(apart) if not any(a != a for a in apart) else float("nan")

    def _picture(self) -> None:
        """See whether a picture gets as far as the model, and whether a prompt with one may be cut."""
        try:
            tokens, inputs = self._picture_prompt()
        except prompts.PicturesDropped as exc:
            self._report.lines["a picture"] = self._report.failed["see"] = str(exc)
            return
        except Exception as exc:  # an odd template or size; pictures may well work
            check_memory(exc)
            self._report.lines["a picture"] = f"could not be looked at ({_line(exc)})"
            return
        if not (self._can.cut or self._can.cut_pictures):
            self._try("cut_pictures", "a picture in pieces", lambda: self._cut_picture(tokens, inputs))

    def _picture_prompt(self) -> tuple[list[int], dict[str, Any]]:
        import numpy as np
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 256, (112, 168, 3), dtype=np.uint8)
        content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        text = prompts.rendered(self._loaded, [{"role": "user", "content": content}], 1, {})
        special = prompts.adds_special_tokens(self._loaded)
        inputs = prompts.picture_inputs(self._loaded, text, [Image.fromarray(noise)], special=special)
        return [int(i) for i in inputs["input_ids"][0].tolist()], inputs

    def _cut_picture(self, tokens: list[int], inputs: dict[str, Any]) -> float:
        prompt = embed(self._loaded.model, tokens, inputs)
        whole = self._picture_batch(tokens, prompt)
        logits, state = whole.finish()
        alone = self._decoded(logits, whole.cache, state, None)
        self._between()
        batch = self._picture_batch(tokens, prompt)
        if batch.whole:
            return 0.0
        places = [i for i, token in enumerate(tokens) if token in self._loaded.media_ids]
        batch.step((places[0] + places[-1] + 1) // 2 if places and prompt.length == len(tokens) else prompt.length // 2)
        logits, state = batch.finish()
        return _difference(self._decoded(logits, batch.cache, state, [alone]), [alone])

    def _picture_batch(self, tokens: list[int], prompt: Embedded) -> PromptBatch:
        return PromptBatch(self._loaded.model, [0], [tokens], [prompt])

    def _try(self, name: str, what: str, work: Callable[[], float]) -> None:
        if time.monotonic() > self._end:
            self._report.lines[what] = "not looked at: it takes too long on this machine"
            self._report.complete = False
            return
        try:
            apart = work()
        except Exception as exc:
            check_memory(exc)
            log.debug("check %s", name, exc_info=exc)
            self._report.lines[what] = self._report.failed[name] = f"{what} failed ({_line(exc)})"
        else:
            same = apart <= self._bound  # never so for NaN
            self._report.lines[what] = (
                f"{'same' if same else 'differs'}: log-probabilities at most {apart:.2g} apart, {self._bound:g} allowed"
            )
            if not same:
                self._report.failed[name] = f"{what} gave other scores than alone (by {apart:.2g})"
        self._between()


def _logprobs(logits: mx.array) -> mx.array:
    wide = logits.astype(mx.float32)
    return wide - mx.logsumexp(wide, axis=-1, keepdims=True)


def _difference(found: Sequence[mx.array], alone: Sequence[Sequence[mx.array]]) -> float:
    """Return the largest difference of the rows' scores at any step from the same alone."""
    apart = [_apart(step[row : row + 1], alone[row][at]) for at, step in enumerate(found) for row in range(len(alone))]
    return max(apart) if not any(a != a for a in apart) else float("nan")


def _apart(found: mx.array, alone: mx.array) -> float:
    """Return how far apart the log-probabilities [1, V] of the likeliest tokens are; NaN where any is not a number."""
    count = min(_MOST, alone.shape[-1])
    likely = mx.argpartition(-alone, count - 1, axis=-1)[:, :count]
    gap = mx.abs(mx.take_along_axis(found, likely, axis=-1) - mx.take_along_axis(alone, likely, axis=-1))
    value = float(mx.max(gap).item())  # type: ignore[arg-type]
    return value if not bool(mx.any(mx.isnan(found)).item()) else float("nan")


def _line(exc: Exception) -> str:
    text = str(exc).strip()
    return (text.splitlines()[0] if text else type(exc).__name__)[:200]
