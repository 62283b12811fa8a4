"""Keeps one model's requests within memory: what the ledger decides, in terms of requests, rows and kept prefixes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sidecar.backend.cache_sizes import layer_sizes
from sidecar.engine import memory
from sidecar.engine.actions import Waiting
from sidecar.engine.admission import STEP, Held, Layer, Ledger
from sidecar.engine.decoding import Standing
from sidecar.engine.messages import Tier
from sidecar.engine.patience import Patience
from sidecar.engine.prefix_cache import PrefixCache
from sidecar.engine.rows import Failed, GenerationRequest
from sidecar.errors import ApiError

EVERY = 16
"""Units between two looks at the room that running rows have, while they have ``PLENTY``."""

PLENTY = 1 << 30
"""Bytes of room."""

SLACK = STEP // 2
"""Tokens by which there may be less room than there should be before anybody is set aside."""

LEAST_PIECE = 32
"""Tokens of a prompt that are processed at a time however short memory is."""

PATIENCE = 5.0
"""Seconds for which a request that has no room although nothing runs waits for what others hold for a moment."""


class Kept(Protocol):
    """What only saves time, and is given up where memory is short."""

    @property
    def size(self) -> int:
        """Bytes held."""

    def shrink(self, limit: int) -> None:
        """Drop entries until at most ``limit`` bytes are held."""


class Room:
    """``most``: bytes that caches could ever have on this machine. ``a_pass``: guess of a pass's bytes a token."""

    def __init__(
        self,
        ledger: Ledger,
        prefixes: PrefixCache,
        *,
        most: int,
        a_pass: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = ledger
        self._clock, self._patience = clock, Patience(clock)
        self._short: dict[int, float] = {}  # since when requests have no room although nothing runs
        self._prefixes = prefixes
        self._most = most
        self._a_pass = a_pass
        self.features: Kept | None = None  # of pictures and sounds
        prefixes.affords = self._affords
        self._longest_pass = 0  # tokens of the longest pass that was measured
        self._units = 0
        self._plenty = False

    def piece(self, tokens: int, rows: int, running: Sequence[Held]) -> int:
        """Return how many of ``tokens`` of a prompt may be processed at once, of ``rows`` such prompts together.

        What a pass holds beside the caches grows with its tokens (160 MB for 2,000 of the starter) and would not fit
        where there is just room for the caches, of what is left of these prompts too. They are among ``running``.
        """
        free = self.ledger.free() if len(running) > rows else max(self.ledger.free(), self.ledger.alone())
        room = free - self.ledger.growth(running) + memory.reserve()
        return max(LEAST_PIECE, min(tokens, int(room / (self._a_pass * rows)))) if self._a_pass else tokens

    def _affords(self, tokens: int) -> bool:
        """Return whether a row of so many tokens can be copied to be kept; older prefixes go for it.

        The copy is made of a copy: a row that ended just below a group's limit took the engine over it.
        """
        return self._shrink(2 * self.ledger.row(tokens) - self.ledger.free()) <= 0

    def learn_pass(self, tokens: int, size: int) -> None:
        """Learn that a pass over so many tokens held ``size`` bytes beside the caches."""
        if tokens > self._longest_pass:
            self._longest_pass, self._a_pass = tokens, max(1.0, size / tokens)

    def measure(self, cache: Sequence[Any], rows: int) -> None:
        """Learn what a token takes in each layer from a cache that holds ``rows`` rows."""
        sizes = layer_sizes(cache, rows)
        self.ledger.layers = tuple(Layer(fixed=f, per_token=p, window=w) for f, p, w in sizes)

    def held(self, rows: Iterable[Standing], prompts: Iterable[tuple[GenerationRequest, int | None]]) -> list[Held]:
        """Return what is in memory, as the ledger sees it. ``prompts``: each with the tokens it has memory for.

        None of a prompt: its picture is looked at.
        """
        lasts, out = self._patience.lasts, list[Held]()
        for row, has, longest in rows:
            one = _held(row.request, len(row.answer), lasts(row.request, row=True))
            out.append(replace(one, has=has or longest, longest=longest))
        for request, begun in prompts:
            one = _held(request, len(request.resumed), lasts(request, row=False))
            out.append(replace(one, has=begun or 0, fixed=begun is None))
        return out

    def may_join(self, rows: int, has: int, others: int, they_have: int, running: Sequence[Held]) -> bool:
        """Return whether two passes' rows, with memory for so many tokens each, may join: there is room to pad them."""
        more = self.ledger.join(rows, has, others, they_have)
        return more <= 0 or more <= self.ledger.room(running)

    def fits(self, request: GenerationRequest, running: Sequence[Held]) -> bool:
        """Return whether a request could begin now, if kept prefixes and, for a chat, batch rows made way."""
        return self._fits(self.ledger, request, running)

    def _fits(self, ledger: Ledger, request: GenerationRequest, running: Sequence[Held]) -> bool:
        chat = request.tier is Tier.INTERACTIVE
        return ledger.fits(_tokens(request), running, self._spare, before_batch=chat, media=request.prompt.numbers)

    def who_fits(
        self, waiting: Collection[GenerationRequest], running: Sequence[Held], *, batch_rests: bool = False
    ) -> set[int]:
        """Return which of the queue may begin now: who fits, but for those held back by one that is late.

        ``batch_rests``: no batch work goes, and none holds anybody back.
        """
        ledger = self.ledger.now()
        fit = {r.id for r in waiting if self._fits(ledger, r, running)}
        return fit - self._patience.held_back((r for r in waiting if not (batch_rests and r.tier is Tier.BATCH)), fit)

    def seen(self, request: GenerationRequest, *, fits: bool, alone: bool) -> Waiting:
        """Return a queued request as the policy sees it. ``alone``: in no group."""
        return Waiting(
            id=request.id,
            tier=request.tier,
            priority=request.priority,
            arrived=request.arrived,
            tokens=len(request.prompt.tokens),
            images=request.prompt.inputs is not None,
            alone=alone,
            fits=fits,
        )

    def make_way(self, request: GenerationRequest, running: Sequence[Held]) -> list[int]:
        """Give up prefixes for a request that begins; return the batch rows to set aside for it."""
        self._shrink(self._need(request, running) - self.ledger.room(running))
        if request.tier is not Tier.INTERACTIVE:
            return []
        return self.ledger.make_way(_tokens(request), running, request.prompt.numbers)

    def admitted(
        self, first: GenerationRequest, others: Sequence[GenerationRequest], running: Sequence[Held]
    ) -> list[GenerationRequest]:
        """Return those of ``others`` that have room together, beside ``first`` and ``running``; nobody makes way."""
        room = self.ledger.free() - self.ledger.growth(running)
        taken, longest = list[GenerationRequest](), _tokens(first)
        for request in others:
            longest = max(longest, _tokens(request))  # all are padded to it
            if (len(taken) + 2) * self.ledger.need(longest, running) > room:
                break
            taken.append(request)
        return taken

    def relieve(self, running: Sequence[Held]) -> list[int]:
        """Give up prefixes where what runs has too little room to grow; return the rows and prompts to set aside.

        While there is plenty it is looked at every ``EVERY`` units: rows grow by no more meanwhile, but a join, another
        model or another program may have taken the rest.
        """
        self._units += 1
        if self._plenty and self._units % EVERY:
            return []
        missing, slack = -self.ledger.room(running), min(memory.reserve() / 2, self.ledger.row(SLACK))
        self._plenty = missing < -PLENTY
        missing = self._shrink(missing)
        # Who was just let in is not put back for a little that others took since.
        return [] if missing <= slack else self.ledger.set_aside(missing, running)

    def scored(
        self, tokens: int, rows: Iterable[Standing], prompts: Iterable[tuple[GenerationRequest, int | None]]
    ) -> None:
        """Give up prefixes for the cache of a prompt whose tokens are scored. Raises ApiError where it has no room."""
        need = self.ledger.row(tokens)
        if self._shrink(need - self.ledger.room(self.held(rows, prompts))) > 0:
            text = f"Scores of {tokens} tokens need {int(need) >> 20} MiB of memory, and there is less; send fewer."
            raise ApiError(503, text, code="not_enough_memory")

    def refuse_what_never_fits(self, waiting: dict[int, GenerationRequest], give_up: Callable[[], None]) -> None:
        """End requests that can't begin although nothing runs. ``give_up`` drops what only saves time.

        What is too large for this machine ends at once; the others after ``PATIENCE``: a picture being decoded, an
        embedding's pass, the answer of another model or another program may have taken the room for a moment.
        """
        short = {n for n, request in waiting.items() if not self.fits(request, [])}
        if short - self._short.keys():
            give_up()
            memory.give_back()  # what the allocator keeps for the next pass is in nobody's sum
        now = self._clock()
        self._short = {n: self._short.get(n, now) for n in short}
        for number, since in list(self._short.items()):
            refusal = self.refusal(waiting[number])
            if refusal is not None and (refusal.status < 500 or now - since >= PATIENCE):
                del self._short[number]
                waiting.pop(number).sink([refusal])

    def refusal(self, request: GenerationRequest) -> Failed | None:
        """Return why a request can't begin although nothing runs; None where it can."""
        if self.fits(request, []):
            return None
        tokens = len(request.prompt.tokens)
        need = int(self._need(request, []))
        have = max(0, int(self.ledger.free() + self._spare))
        numbers = request.prompt.numbers
        media = " and ".join(["pictures"] * bool(numbers.pictures) + ["sounds"] * bool(numbers.sounds))
        text = f"A prompt of {tokens} tokens{f' with {media}' if media else ''} needs {need >> 20} MiB of memory"
        if need > self._most:
            text = f"{text}, and this machine has {self._most >> 20} MiB beside the model; shorten it."
            return Failed(400, text, "context_length_exceeded")
        text = f"{text}, and {have >> 20} MiB are free; close other programs or shorten it."
        return Failed(503, text, "not_enough_memory")

    def _need(self, request: GenerationRequest, running: Sequence[Held]) -> float:
        return self.ledger.need(_tokens(request), running, request.prompt.numbers)

    def _shrink(self, missing: float) -> float:
        """Give up prefixes, then what towers gave, for ``missing`` bytes; return what is missing still."""
        if missing > 0 and self._prefixes.bytes:
            before = self._prefixes.bytes
            self._prefixes.shrink(max(0, int(before - missing)))
            missing -= before - self._prefixes.bytes
        if missing > 0 and self.features is not None:
            before = self.features.size
            self.features.shrink(max(0, int(before - missing)))
            missing -= before - self.features.size
        return missing

    @property
    def _spare(self) -> int:
        """Bytes of what only saves time."""
        return self._prefixes.bytes + (self.features.size if self.features is not None else 0)

    def full(self, running: Sequence[Held]) -> bool:
        """Return whether the only row there is can't have its next token: nothing is left to give up for it."""
        if len(running) != 1 or running[0].tokens < (running[0].has or 0) - 1:
            return False
        missing = self.ledger.growth(running) - max(self.ledger.alone(), self.ledger.free())
        return self._shrink(missing) > 0


def _tokens(request: GenerationRequest) -> int:
    return len(request.prompt.tokens) + len(request.resumed)


def _held(request: GenerationRequest, answer: int, lasts: bool) -> Held:
    return Held(
        id=request.id,
        tokens=len(request.prompt.tokens) + answer,
        lasts=lasts,
        batch=request.tier is Tier.BATCH,
        since=request.arrived,
    )
