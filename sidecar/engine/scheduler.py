"""What the engine does next: pure decisions over a view of its queues, with measured costs and a given clock.

Theory of operation
-------------------
The engine does one thing at a time, and each takes as long as it takes: a decode step, a piece of a prompt, a block of
a picture. Whoever reads a chat notices the longest gap between two of its tokens. So between two tokens of a running
interactive stream there is room for ``gap_bound - 1`` of its own inter-token times (nine tenths of that are planned
with), and work is cut to fit what is left of it.

Interactive prompts and embeddings take the room first, in turns. Batch work gets what it needs to reach its target
share of the time, and a guaranteed least share (``credit``) even when interactive work never pauses: a unit larger than
any gap is done when the credit has grown to its cost. Without a running stream there is no gap to keep, and units are
larger.

Batch rows share the interactive rows' forward pass as far as that costs a token little: the weights are read once for
all of them. Where they can't, or cost too much, the two take turns. Prompts are processed in that pass too, where the
model can (``View.can_mix``): a piece of a batch prompt as large as keeps tokens within ``slowdown`` times their own on
average and each of them within ``SMOOTH``, one of a chat's as large as the gap allows. Nothing then stands between two
tokens, and none takes much longer than another.

A timeline, with ``gap_bound`` 3, a stream whose token takes 20 ms, and pieces of 64 tokens that take 24 ms and of 128
that take 45. A gap may last 20 + 2 * 20 * 0.9 = 56 ms.

    0 ms    a token of the stream was sent; a chat's prompt of 300 tokens waits. Room: 56 - 20 = 36 ms: 64 tokens fit.
    24 ms   spent 24, room 12: nothing fits, so the stream decodes
    44 ms   its token is sent (a gap of 44 ms); room 36 again, the next 64 tokens
    ...     after five gaps the prompt is done, 220 ms after it came; its first token comes with its last piece
    220 ms  both streams decode in one pass of 22 ms. A batch row waits: three rows would take 24 ms, less than
            22 * 1.6, so it shares the pass

The same with mixed passes, where 64 tokens add 12 ms to a token's 20 and 160 add 34:

    0 ms    the chat's prompt of 300 tokens waits. The stream's token and 160 tokens of the prompt take 54 ms
    54 ms   the next token, with the other 140: 50 ms, and the prompt is done, 104 ms after it came
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sidecar.engine.actions import (
    Action,
    Begin,
    Call,
    Decode,
    Encode,
    Idle,
    Prefill,
    Prefilling,
    View,
    Waiting,
    has_work,
    tier_of,
)
from sidecar.engine.costs import CHUNKS, Costs, chunk_class, filled
from sidecar.engine.messages import Tier
from sidecar.engine.pieces import LEAST_PIECE, SAME_PRICE, SHARED_SLOWDOWN, beside, group_with, mixing, share_out

BATCH_BESIDE_DECODE = 0.5
"""Share of the engine's time batch work aims at beside running interactive streams."""

KEEP_SHARED = 1.2
"""How much longer than ``slowdown`` a pass may take with rows that share it already: moving them has its price."""

SMOOTH = 2.0
"""How long a single pass may take, in times of a token's own, where those before it were shorter than ``slowdown``."""

ROOM_USED = 0.9
"""Share of the room between two tokens that is planned with; the rest is for costs guessed too low."""

ALONE_QUANTUM = 0.1
"""Seconds a unit of batch work may take when nothing interactive is there, so that an arrival waits little."""

LEFT_QUANTUM = 0.2
"""The same where units can be left in their midst (``aside``): larger ones read the weights less often."""

SHORT_STEP = 0.03
"""Seconds of a step below which batch rows by themselves work one step ahead: an arrival waits for that step too."""

INTERACTIVE_QUANTUM = 0.5
"""Seconds a piece of an interactive prompt may take when no stream runs: how soon a cancel is heard."""

LONE_QUANTUM = 1.0
"""The same where nothing else is there at all: another chat that arrives waits that long at most."""

FIRST_CHUNK = 64
"""Tokens of the first chunk on a machine nothing is known of."""

BEGUN_AHEAD = 64
"""Tokens of begun prompts beside rows that are enough to fill the next passes."""

CREDIT_CAP = 2.0
"""Seconds of guaranteed share batch work can save up."""


@dataclass
class Policy:
    """Decides; remembers what was spent since the last interactive token and what batch work is owed."""

    gap_bound: float = 3.0
    least_batch_share: float = 0.1
    max_rows: int = 8
    slowdown: float = SHARED_SLOWDOWN  # how long interactive tokens may take on average, in times of their own
    alone: float = ALONE_QUANTUM  # seconds of a unit of batch work when nothing interactive is there
    mixed_passes: bool = True  # whether pieces of prompts may share the rows' pass at all
    costs: Costs = field(default_factory=Costs)
    spent: float = 0.0  # seconds of other work since the last interactive token
    batch_spent: float = 0.0  # of which batch work
    credit: float = 0.0  # seconds owed to batch work
    saved: float = 0.0  # seconds by which the last passes were shorter than they may be on average
    _last_batch: type[Action] | None = None  # the kind of unit batch work had last
    _called: bool = False  # whether interactive work beside rows had a call last

    def decide(self, view: View) -> Action:
        """Return the next action for ``view``."""
        if view.can_mix and not (self.mixed_passes and self.costs.mixing_pays):
            view = replace(view, can_mix=False)
        if view.rows.get(Tier.INTERACTIVE):
            return self._beside_stream(view)
        lone = not has_work(view, Tier.BATCH) and len(view.waiting) + len(view.prefilling) == 1
        interactive = self._work(view, Tier.INTERACTIVE, LONE_QUANTUM if lone else INTERACTIVE_QUANTUM)
        batch = self._work(view, Tier.BATCH, max(self.alone, self.costs.decode(view.rows.get(Tier.BATCH, 0))))
        if interactive is not None and batch is not None and 0 < self.cost(batch, view) <= self.credit:
            return batch
        return interactive or batch or Idle()

    def ahead(self, tier: Tier, rows: int) -> bool:
        """Return whether a batch that runs alone should leave its next tokens being computed."""
        return tier is Tier.INTERACTIVE or self.costs.decode(rows) < SHORT_STEP

    def bears(self, view: View, seconds: float) -> bool:
        """Return whether a running chat's next token may begin only ``seconds`` after its last."""
        own = self.costs.decode(view.rows[Tier.INTERACTIVE])
        return seconds + own <= own * self.slowdown

    def done(self, action: Action, view: View, seconds: float) -> None:
        """Account for an action that took ``seconds``; call after each."""
        tier = tier_of(action, view)
        for_batch = seconds if tier is Tier.BATCH else 0.0
        if isinstance(action, Decode) and tier is Tier.INTERACTIVE:
            own = self.costs.decode(view.rows[Tier.INTERACTIVE])
            self._called = self._called and not action.pieces
            if not action.pieces and any(p.mixes for p in view.prefilling):
                self.costs.doubt_mixed()
            short = own * self.slowdown - seconds - self.spent
            self.saved = min(own * (self.gap_bound - 1), max(0.0, self.saved + short))
            self.spent = self.batch_spent = 0.0
            mixed = any(p.tier is Tier.BATCH for p in view.prefilling if p.id in dict(action.pieces))
            # What waits for its share doesn't lose it to rows.
            if mixed or (action.shared_rows and not self._pieces(view, Tier.BATCH)):
                for_batch = max(0.0, seconds - self.costs.decode(view.rows[Tier.INTERACTIVE]))
        else:
            self.spent += seconds
            self.batch_spent += for_batch
        if tier is Tier.BATCH and not isinstance(action, Encode):
            self._last_batch = type(action)
        if tier is Tier.INTERACTIVE and not isinstance(action, Decode):
            self._called = isinstance(action, Call)
        if for_batch:
            self.credit = max(0.0, self.credit - for_batch)
        elif has_work(view, Tier.BATCH):
            self.credit = min(CREDIT_CAP, self.credit + seconds * self.least_batch_share)
        if not has_work(view, Tier.BATCH):
            self.credit = 0.0
        if not view.rows.get(Tier.INTERACTIVE):
            self.spent = self.batch_spent = 0.0

    def _beside_stream(self, view: View) -> Action:
        gap = self._gap(view)
        own = self.costs.decode(view.rows[Tier.INTERACTIVE])
        # Room is kept for what fits into a gap; anything larger is paid for by the guaranteed share, whatever else is.
        least = max((p for p in self._pieces(view, Tier.BATCH) if own + p <= gap), default=0.0)
        if self._pieces(view, Tier.INTERACTIVE):
            most = 0
        elif mixing(view, Tier.BATCH):
            most = self._max_shared_rows(view, min(gap, own * self.slowdown))
        else:
            most = self._max_shared_rows(view, gap - least)
        # Rows join only where nothing else was done since the last token: that gap is longer as it is.
        shared = min(most, view.shared_rows) if self.spent else most
        smooth = min(gap, own * max(self.slowdown, SMOOTH)) - self.spent
        usual = min(smooth, own * self.slowdown + self.saved - self.spent)
        pieces = beside(
            view,
            self.costs,
            max(self.saved, self.credit),
            shared=shared,
            usual=usual,
            smooth=smooth,
            seconds=gap - self.spent,
        )
        stream = Decode(Tier.INTERACTIVE, shared, pieces)
        room = gap - self.spent - self.costs.decode(view.rows[Tier.INTERACTIVE] + shared)
        interactive = self._work(view, Tier.INTERACTIVE, room)
        # Rows that could share the pass take no turns of their own: while a prompt needs the room they rest.
        batch = self._work(view, Tier.BATCH, room, resting=self._max_shared_rows(view, gap) > 0)
        if interactive is not None and not isinstance(interactive, Decode):
            owed = batch is not None and 0 < self.cost(batch, view) <= self.credit
            first = batch if owed and batch is not None else interactive
            if self.spent == 0.0 or self.cost(first, view) <= room:
                return first
            return stream
        if batch is not None:
            cost = self.cost(batch, view)
            wants = self.batch_spent < own * BATCH_BESIDE_DECODE / (1 - BATCH_BESIDE_DECODE)
            if wants and cost <= room:
                return batch
            if cost <= self.credit and self.spent == 0.0:
                return batch  # larger than any gap: its guaranteed share pays for it
        return stream

    def _gap(self, view: View) -> float:
        """Return the seconds from one interactive token to the next, as planned at most."""
        own = self.costs.decode(view.rows[Tier.INTERACTIVE])
        return own * (1 + (self.gap_bound - 1) * ROOM_USED)

    def _max_shared_rows(self, view: View, limit: float) -> int:
        """Return how many batch rows may share the interactive ones' pass, which may take ``limit`` seconds."""
        own = view.rows[Tier.INTERACTIVE]
        if not view.can_share or not self.costs.knows("decode", own):
            return 0
        alone, n = self.costs.decode(own), view.rows.get(Tier.BATCH, 0)
        while n:
            keep = KEEP_SHARED if n <= view.shared_rows else 1.0
            if self.costs.decode(own + n) <= min(limit, alone * self.slowdown * keep):
                break
            n -= 1
        return n

    def _pieces(self, view: View, tier: Tier) -> list[float]:
        """Return the seconds of the least units that what a tier has beside running rows can go on by."""
        held = view.rows.get(tier, 0) + sum(p.rows for p in view.prefilling if p.tier is tier)
        fresh = [w for w in view.waiting if w.tier is tier and w.fits and held < self.max_rows]
        out = [self.costs.of("call", 1) for c in view.calls if c.tier is tier]
        if tier in view.encoding or any(w.images for w in fresh):
            out.append(self.costs.of("encode", 1))
        if fresh or any(p.tier is tier for p in view.prefilling):
            rows = view.rows.get(Tier.INTERACTIVE, 0)
            mixed = self.costs.mixed(rows, LEAST_PIECE) - self.costs.decode(rows)
            out.append(mixed if view.can_mix and rows else self.costs.of("prefill", CHUNKS[0]))
        return out

    def _work(self, view: View, tier: Tier, room: float, *, resting: bool = False) -> Action | None:
        """Return the best unit of one tier, cut to ``room`` seconds; None when it has none.

        ``resting``: its rows don't go.
        """
        if view.encoding and view.encoding[-1] is tier:
            return Encode()
        rows = view.rows.get(tier, 0)
        mixed = mixing(view, tier) if rows or view.rows.get(Tier.INTERACTIVE) else []
        begun = sorted((p for p in view.prefilling if p.tier is tier and p not in mixed), key=self._due)
        room_for = self.max_rows - rows - sum(p.rows for p in (*begun, *mixed))
        queue = sorted((w for w in view.waiting if w.tier is tier), key=self._due)
        calls = sorted((c for c in view.calls if c.tier is tier), key=lambda c: (c.arrived, c.id))
        fresh = next((w for w in queue if w.fits and not (w.images and _busy(view, tier))), None)
        others = begun or mixed or (fresh is not None and room_for > 0) or (rows and not resting)
        if tier is Tier.INTERACTIVE:
            # Calls and prompts take turns: whoever embeds a folder, text by text, leaves no gap for a chat to begin in.
            turn = not (self._called and (begun or mixed or (fresh is not None and room_for > 0)))
        else:
            turn = not others or self._last_batch is (Prefill if resting else Decode)
        if calls and turn:
            return Call(calls[0].id)
        if fresh is not None and room_for > 0 and self._begins(fresh, begun, mixed):
            together = (
                () if view.can_mix and any(view.rows.values()) else group_with(fresh, queue, room_for, self.costs)
            )
            return Begin(fresh.id, together)
        # Beside a stream batch work's rows and prompts take turns; else prompts go first, so that rows fill up.
        turns = tier is Tier.BATCH and rows and view.rows.get(Tier.INTERACTIVE) and not resting
        if begun and not (turns and self._last_batch is not Decode):
            first = begun[0]
            return Prefill(first.id, first.remaining if first.whole else self._chunk(first, room))
        if rows and not resting:
            limit = max(room, self.costs.decode(1) * self.slowdown)
            return Decode(tier, 0, share_out(mixed, max(filled(rows, LEAST_PIECE), self.costs.piece(rows, limit))))
        return None

    def _begins(self, fresh: Waiting, begun: Sequence[Prefilling], mixed: Sequence[Prefilling]) -> bool:
        """Return whether a queued prompt is begun now, in place of going on with those that are."""
        enough = sum(p.remaining * p.rows for p in mixed) >= BEGUN_AHEAD
        first = [*begun[:1], *(mixed[:1] if enough else ())]
        return all(self._due(fresh) < self._due(other) for other in first)

    def _due(self, prompt: Waiting | Prefilling) -> tuple[int, float, int]:
        """Return by what prompts are ordered: each is due when it would be done if nothing else were there.

        So a short one that comes while a long one is processed goes first, and a long one does not wait for ever.
        """
        tokens = prompt.tokens if isinstance(prompt, Waiting) else prompt.remaining * prompt.rows
        return (prompt.priority, prompt.arrived + self.costs.of("prefill", max(1, tokens)), prompt.id)

    def _chunk(self, prompt: Prefilling, room: float) -> int:
        least = self.costs.of("prefill", CHUNKS[0])
        if least > room:  # as much as comes at about its price: a piece may cost most by being begun
            room = least * SAME_PRICE
        best = FIRST_CHUNK
        if least:
            best = max(size for size in CHUNKS if self.costs.of("prefill", size) <= room)
            rest = prompt.remaining * prompt.rows
            if room >= INTERACTIVE_QUANTUM and self.costs.of("prefill", rest) <= room * SAME_PRICE:
                best = rest  # a little more now, in place of reading the weights once more for a little
        return min(max(1, best // prompt.rows), max(1, prompt.remaining))

    def cost(self, action: Action, view: View) -> float:
        """Predict the seconds of an action."""
        if isinstance(action, Prefill):
            prompt = next(p for p in view.prefilling if p.id == action.id)
            if prompt.remaining <= 1:
                return self.costs.of("finish", prompt.rows)
            return self.costs.of("prefill", chunk_class(action.tokens * prompt.rows))
        if isinstance(action, Decode):
            rows = {p.id: p.rows for p in view.prefilling}
            tokens = sum(tokens * rows[key] for key, tokens in action.pieces)
            return self.costs.mixed(view.rows.get(action.tier, 1) + action.shared_rows, tokens)
        if isinstance(action, Encode):
            return self.costs.of("encode", 1)
        if isinstance(action, Begin):
            images = any(w.id == action.id and w.images for w in view.waiting)
            return self.costs.of("encode", 1) if images else self.costs.of("begin", 1)
        if isinstance(action, Call):
            return self.costs.of("call", 1)
        return 0.0


def _busy(view: View, tier: Tier) -> bool:
    """Return whether an image of this tier, or a more urgent one, is being encoded."""
    return any(t <= tier for t in view.encoding)
