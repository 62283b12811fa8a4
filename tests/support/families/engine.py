"""The real engine pieces without their thread: a model's runner, driven action by action by a script.

All contact of the matrix with the engine is here. ``Script`` stands in for the scheduler's policy: it makes the same
kinds of decision from the same view, but in an order that the test gives, so that any interleaving can be had again.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sidecar.backend import loader
from sidecar.backend.caches import KVQuantization
from sidecar.engine.actions import Action, Begin, Decode, Encode, Idle, Prefill, View
from sidecar.engine.admission import Layer, Ledger
from sidecar.engine.messages import Sampling, Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.prefix_cache import PrefixCache
from sidecar.engine.room import Room
from sidecar.engine.rows import Done, Event, Failed, GenerationRequest, Prompt, Started, Token
from sidecar.engine.runner import ModelRunner
from sidecar.engine.scheduler import Policy
from sidecar.engine.units import UnitLog
from sidecar.text.images import Picture
from sidecar.text.prompt import build_prompt
from tests.support.families.reference import said


@dataclass(eq=False)
class Run:
    """One request and what it gave. ``label`` names it in a report."""

    label: str
    request: GenerationRequest
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    failure: str = ""
    cached: int = 0
    ended: bool = False

    def take(self, events: Sequence[Event]) -> None:
        """Note events; what comes after the end is a fault of its own."""
        for event in events:
            if self.ended:
                self.failure = f"{event} came after the end"
            elif isinstance(event, Started):
                self.cached = event.cached_tokens
            elif isinstance(event, Token):
                self.tokens.append(event.id)
                self.logprobs.append(event.logprob)
            elif isinstance(event, Failed):
                self.failure, self.ended = f"{event.status}: {event.message}", True
            elif isinstance(event, Done):
                self.ended = True


class Script(Policy):
    """Decides as the test says. ``piece``: tokens of a prompt at a time; ``group``: texts are processed together."""

    def __init__(self) -> None:
        super().__init__()
        self.piece = 4096
        self.group = False
        self.decode_first = False  # rows go on before a prompt does
        self.draw: random.Random | None = None  # any action that is possible, at random

    def decide(self, view: View) -> Action:
        """Return the next action: begin what waits, then its prompt, then one token for all rows."""
        actions = self._possible(view)
        if not actions:
            return Idle()
        if self.draw is not None:
            return self.draw.choice(actions)
        if view.encoding:
            return Encode()
        order = (Begin, Decode, Prefill) if self.decode_first else (Begin, Prefill, Decode)
        return min(actions, key=lambda a: order.index(type(a)))

    def _possible(self, view: View) -> list[Action]:
        out: list[Action] = [Encode()] if view.encoding else []
        waiting = [w for w in view.waiting if w.fits]
        if waiting and not (view.encoding and waiting[0].images):
            first = waiting[0]
            group = first.tokens and not (first.images or first.alone) and (self.group or self.draw is not None)
            others = [w.id for w in waiting[1:] if group and not (w.images or w.alone) and w.tier is first.tier]
            out.append(Begin(first.id, tuple(others)))
        for prompt in view.prefilling:
            piece = self.draw.choice((3, 8, 64, 256)) if self.draw is not None else self.piece
            out.append(Prefill(prompt.id, prompt.remaining if prompt.whole else min(piece, max(1, prompt.remaining))))
        for tier in Tier:
            if view.rows.get(tier):
                room = view.rows.get(Tier.BATCH, 0) if tier is Tier.INTERACTIVE and view.can_share else 0
                out.append(Decode(tier, self.draw.randint(0, room) if self.draw is not None else 0))
        return out


class Engine:
    """A model in memory and its runner; the caller is the engine's thread."""

    def __init__(self, path: Path) -> None:
        self.loaded = loader.load(path, lambda _: None)
        self.script = Script()
        self.runner = make_runner(self.loaded, self.script, self._between)
        self._poll: Callable[[], None] = lambda: None

    def _between(self) -> None:
        """Between the blocks of a picture."""
        self._poll()

    def prompt(self, messages: Sequence[dict[str, Any]], images: Sequence[Image.Image]) -> Prompt:
        """Return the prompt of a conversation whose pictures stand before the first message's text."""
        seen = [Picture(i, hashlib.sha256(i.tobytes()).hexdigest()) for i in images]
        return build_prompt(self.loaded, said(messages, len(images)), seen)

    def submit(
        self, label: str, prompt: Prompt, *, tokens: int = 8, tier: Tier = Tier.INTERACTIVE, **sampling: Any
    ) -> Run:
        """Queue a request."""
        request = GenerationRequest(
            prompt=prompt,
            sampling=Sampling(**{"temperature": 0.0, "logprobs": True, **sampling}),
            max_tokens=tokens,
            tier=tier,
            sink=lambda _: None,
            arrived=time.monotonic(),
        )
        run = Run(label, request)
        request.sink = run.take
        self.runner.submit(request)
        return run

    def cancel(self, run: Run) -> None:
        """Drop a request."""
        self.runner.cancel(run.request.id)
        run.ended = True

    def turn(self) -> bool:
        """Carry out one action; return False when there is nothing to do."""
        view = self.runner.view()
        action = self.script.decide(view)
        if isinstance(action, Idle):
            return False
        self.runner.perform(action, view)
        return True

    def until(self, reached: Callable[[], bool], limit: int = 4000) -> None:
        """Carry out actions until ``reached`` or nothing is left. Raises RuntimeError after ``limit`` of them."""
        for _ in range(limit):
            if reached() or not self.turn():
                return
        raise RuntimeError(f"no end after {limit} actions")

    def finish(self) -> None:
        """Carry out actions until nothing is left."""
        self.until(lambda: not self.runner.busy)

    def set(
        self, *, piece: int = 4096, group: bool = False, decode_first: bool = False, draw: random.Random | None = None
    ) -> None:
        """Say how the script decides from now on."""
        self.script.piece, self.script.group = piece, group
        self.script.decode_first, self.script.draw = decode_first, draw

    def forget(self) -> None:
        """Drop kept prefixes and pictures' features."""
        self.runner.forget()

    def other_first(self, first: Run, other: Run) -> None:
        """Carry out actions so that ``other`` ends before ``first`` goes on; then all the rest."""
        for _ in range(400):
            if other.ended:
                break
            view = self.runner.view()
            prompt = next((p for p in view.prefilling if p.id == other.request.id), None)
            if view.encoding:
                self.runner.perform(Encode(), view)
            elif any(w.id == other.request.id for w in view.waiting):
                self.runner.perform(Begin(other.request.id), view)
            elif prompt is not None:
                self.runner.perform(Prefill(prompt.id, prompt.remaining), view)
            else:
                self.runner.perform(Decode(Tier.INTERACTIVE), view)
        self.finish()

    @property
    def record(self) -> dict[str, str]:
        """What the model can't do, with the reasons."""
        return {name: reason for name, reason in vars(self.loaded.can).items() if reason}


def make_runner(loaded: loader.LoadedModel, policy: Policy, poll: Callable[[], None]) -> ModelRunner:
    """Return the runner of a loaded model, as the engine's thread makes it."""
    prefixes = PrefixCache(256 << 20)
    return ModelRunner(
        loaded,
        policy=policy,
        prefix_cache=prefixes,
        meter=Meter(),
        kv=KVQuantization.of(0, loaded.config),
        guesses=0,
        poll=poll,
        room=Room(Ledger(lambda: 1 << 40, [Layer()]), prefixes, most=1 << 40),
        units=UnitLog(None),
    )
