"""The queue, prompts and rows of one loaded chat model: carries out what the policy decides. Engine thread only.

Theory of operation
-------------------
A request waits here until the policy begins it (``Begin``), then is a prompt that is processed a piece at a time
(``Prefill``), then a row that gets one token a step (``Decode``). What is tried together is decided by the policy;
whether it may be is written in the model's record (``LoadedModel.can``), and no fault of one request, or of the model's
way of handling several, costs another request its answer:

* A request's own fault (its grammar, its picture, a client that broke) ends that request.
* A group of prompts that fails, or gives NaN, is taken apart: each is tried alone. Rows whose pass fails go back to the
  queue with the tokens they have, and each goes on by itself at its token.
* What fails alone as well was the request's own fault. What runs well alone was the fault of being together: the record
  then says no, and this model goes on one at a time. An exception in a pass of several says so at once.

A timeline of a model whose batches are broken (a token alone takes 20 ms):

    0 ms    chat A decodes alone; chat B has been processed and joins A's lane
    25 ms   the first pass of both raises: A has 40 tokens, B one. Both go back to the queue; ``can.batch`` is ruled out
    26 ms   A is begun again: its prompt and 40 tokens are processed (60 ms), its 41st token is sent
    90 ms   the same for B. From now on each has a lane of its own, and a token comes every 40 ms
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from sidecar.backend.caches import KVQuantization
from sidecar.backend.features import Disk
from sidecar.backend.loader import LoadedModel
from sidecar.engine import memory, shared_pass
from sidecar.engine.actions import Action, Begin, Decode, View, without_batch
from sidecar.engine.actions import Prefill as PrefillAction
from sidecar.engine.admission import Held
from sidecar.engine.aside import Aside
from sidecar.engine.choosing import Row, accept, deliver
from sidecar.engine.decoding import DecodeBatch
from sidecar.engine.keeping import OnePrefill, keep
from sidecar.engine.messages import Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.prefill import Begun, Prefill
from sidecar.engine.prefix_cache import PrefixCache
from sidecar.engine.prompt_stage import PromptStage
from sidecar.engine.recovery import Recovery, first_line
from sidecar.engine.room import Room
from sidecar.engine.rows import Failed, GenerationRequest, Started, Token
from sidecar.engine.scheduler import Policy
from sidecar.engine.tiers import TierBatches
from sidecar.engine.units import UnitLog

log = logging.getLogger("sidecar.engine")


class ModelRunner:
    """Queues, prompts and rows of one loaded model."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        policy: Policy,
        prefix_cache: PrefixCache,
        meter: Meter,
        kv: KVQuantization,
        guesses: int,
        poll: Callable[[], None],
        room: Room,
        units: UnitLog,
        disk: Disk | None = None,
    ) -> None:
        self.loaded = loaded
        self.company: Callable[[], bool] = lambda: False  # whether another model's requests hold memory
        self.batch_rests: Callable[[], bool] = lambda: False  # whether batch work is to wait
        self.policy = policy
        self.prefixes = prefix_cache
        self._meter = meter
        self._guesses, self._units = guesses, units
        if kv.bits:
            loaded.can.rule_out("keep", "kept prefixes and a quantized key-value cache don't combine")
        self.waiting: dict[int, GenerationRequest] = {}
        self.batches = TierBatches(loaded.model, loaded.can, self._may_join)
        self.room, self.recovery = room, Recovery(loaded.can, again=self.submit)
        self.stage = PromptStage(loaded, prefix_cache, room, meter=meter, kv=kv, recovery=self.recovery, disk=disk)
        self._aside = Aside(self, loaded, poll)
        self._one_prefill = OnePrefill(loaded, prefix_cache)

    # --- queue ---------------------------------------------------------------------------------------
    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        return bool(self.waiting or self.stage.busy or len(self.batches))

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        self.waiting[request.id] = request

    def cancel(self, request_id: int) -> None:
        """Drop a request wherever it is; its row is free at the next step."""
        self.recovery.forget(request_id)
        if self.waiting.pop(request_id, None) is not None:
            self._meter.cancelled()
            return
        if self._aside.cancels_later(request_id) or self.stage.cancel(request_id):
            return
        for batch in (self.batches.shared, self.batches.separate):
            for row in [row for row in batch.rows if row.request.id == request_id]:
                keep(self.loaded, self.prefixes, batch, row)
                self._remove(batch, [row])
                self._meter.cancelled()

    def fail_all(self, status: int, message: str) -> None:
        """End every request with an error."""
        for request in [*self.waiting.values(), *(row.request for row in self.batches), *self.stage.requests]:
            request.sink([Failed(status, message)])
        self.waiting.clear()
        self.stage.prefills.clear()
        self.batches.take_all()

    def save(self, done: Callable[[], None]) -> bool:
        """Bring a piece of what chats left to the disk, when idle; return whether one is on its way."""
        return self.prefixes.save(done) or self.stage.save(done)

    def forget(self) -> None:
        """Drop kept prefixes and picture features."""
        self.prefixes.clear()
        self.stage.forget()

    def view(self) -> View:
        """Return what the policy sees."""
        held, ungrouped, can = self._held() if self.waiting else [], self.recovery.ungrouped, self.loaded.can
        if self.waiting and not (held or self.stage.busy or self.company()):
            self.room.refuse_what_never_fits(self.waiting, self.forget)
        shared = self._one_prefill.waiting_for_it(self.waiting.values(), self.stage.requests)
        queue = [r for r in self.waiting.values() if r.id not in shared]
        rests = self._aside.in_pass or self.batch_rests()
        fit = self.room.who_fits(queue, held, batch_rests=rests) if queue else set()
        view = View(
            waiting=tuple(
                self.room.seen(r, fits=r.id in fit, alone=bool(r.resumed or r.id in ungrouped or can.group))
                for r in queue
            ),
            prefilling=tuple(p.seen() for p in self.stage.prefills.values()),
            rows={tier: self.batches.count(tier) for tier in Tier},
            shared_rows=self.batches.shared_rows,
            can_share=self.batches.can_share,
            can_mix=not (can.mix or can.batch),
            encoding=tuple(e.request.tier for e in self.stage.encoding),
        )
        return without_batch(view) if self._aside.in_pass else view

    def _held(self) -> list[Held]:
        return self.room.held(self.batches.held, self.stage.held)

    def _may_join(self, rows: int, has: int, others: int, they_have: int) -> bool:
        return self.room.may_join(rows, has, others, they_have, self._held())

    def _set_aside(self, ids: Sequence[int]) -> None:
        """Put running rows back into the queue for want of memory; each comes back at the token it has."""
        for batch in (self.batches.shared, self.batches.separate):
            self._remove(batch, gone := [row for row in batch.rows if row.request.id in ids])
            self.recovery.set_aside(gone)
        self.stage.put_back(ids)

    def _make_room(self) -> None:
        """See that what runs has room to go on: others are set aside; who has nobody left to be set aside ends."""
        memory.look(time.monotonic())
        self._set_aside(self.room.relieve(self._held()))
        if self.room.full(self._held()):
            self.recovery.full(self.batches.take_all(), company=self.company())

    def may_begin(self, request_id: int) -> bool:
        """Return whether a waiting request has room without another one making way."""
        return not self.room.make_way(self.waiting[request_id], self._held())

    # --- actions -------------------------------------------------------------------------------------
    def perform(self, action: Action, view: View) -> None:
        """Carry out one action and tell the policy what it cost."""
        start = time.monotonic()
        paused = self._aside.paused_for
        try:
            with self._aside.around(action, view):
                kind, size = self._do(action)
        finally:
            seconds = time.monotonic() - start - (self._aside.paused_for - paused)
            self.policy.done(action, view, seconds)
            self._aside.settle()
            self._units.note(action, view, start, seconds)
        rows = view.rows[action.tier] + action.shared_rows if isinstance(action, Decode) else 0
        self.policy.costs.learn_unit(kind, size, seconds, rows=rows)

    def _do(self, action: Action) -> tuple[str, int]:
        """Carry out an action; return what kind of cost it taught and of which size, "" for none."""
        if isinstance(action, Begin):
            request = self.waiting.pop(action.id)
            self._set_aside(self.room.make_way(request, self._held()))
            if action.group_with:
                others = [self.waiting[n] for n in action.group_with]
                group = self.room.admitted(request, others, self._held())
                self.stage.begin_group([request, *(self.waiting.pop(r.id) for r in group)])
                return "", 0
            self.stage.begin(request)
            return ("", 0) if request.prompt.inputs is not None else ("begin", 1)
        if not self._aside.in_pass:
            self._make_room()
        if isinstance(action, PrefillAction) and action.id in self.stage.prefills:
            return self._prefill(self.stage.prefills[action.id], action.tokens)
        if isinstance(action, Decode):
            return self._decode(action)
        return "", 0

    def _prefill(self, prefill: Prefill, tokens: int) -> tuple[str, int]:
        before, rows = prefill.remaining, len(prefill.requests)
        begun = self.stage.step(prefill, self.room.piece(tokens, rows, self._held()))
        if begun is None:
            return "prefill", (before - prefill.remaining) * rows
        del prefill  # and its hold on the caches
        self._start(begun)
        return ("finish", rows) if before <= 1 else ("prefill", before * rows)

    def _start(self, begun: Begun) -> None:
        """Send first tokens; the rows that go on join their tier's."""
        tier = begun.rows[0].request.tier
        self.room.measure(begun.cache, len(begun.rows))
        self._one_prefill.done(begun, self.waiting.values())
        now, ended = time.monotonic(), []
        for row, token in zip(begun.rows, begun.tokens, strict=True):
            request = row.request
            self.recovery.ungrouped.discard(request.id)
            if token is None and len(begun.rows) > 1:
                self.recovery.suspect("group", row)
                ended.append(row)
                continue
            try:
                if token is not None:
                    accept(row, token.id)
                    self._meter.first_token(tier, now - request.arrived, prompt=len(request.prompt.tokens))
                    if not request.retries:
                        request.sink([Started(row.cached_tokens)])
                over = self._deliver(row, [] if token is None else [token])
            except Exception as exc:  # its own fault: the others of its group have their tokens by now
                row.fault = first_line(exc)
                self.recovery.fault(request, exc)
                over = True
            if over:
                ended.append(row)
        fresh = self.batches.fresh()
        try:
            fresh.add(begun.rows, begun.cache, begun.chosen, begun.state)
            for row in ended:
                if row.fault is None:
                    keep(self.loaded, self.prefixes, fresh, row)
            fresh.remove(ended)
        except Exception as exc:
            self.recovery.resume([row for row in begun.rows if row not in ended], exc)
            return
        self.batches.of(tier).absorb(fresh)
        self._settle_blame()

    def _decode(self, action: Decode) -> tuple[str, int]:
        started = time.monotonic()
        running = list(self.batches)
        try:
            batch = self.batches.arrange(action.tier, action.shared_rows)
        except Exception as exc:
            self.batches.take_all()
            self.recovery.resume(running, exc)
            return "", 0
        size = len(batch)
        # Alone a batch works one step ahead where that pays. A step that only reads what was in flight teaches no cost.
        alone = size == len(running) and not self.stage.busy
        prompts = [] if batch.in_flight or not size else self.stage.named(action.pieces)
        begun: list[Begun] = []
        kind, amount, settled = "decode", size, batch.steady and not batch.apart
        if prompts:
            kind, amount = "mixed", sum(min(n, p.remaining) * len(p.requests) for p, n in prompts)
            produced, begun = shared_pass.step(batch, prompts, self.stage, self.recovery)
        else:
            ahead = alone and self.policy.ahead(action.tier, size)
            settled = settled and (ahead or not batch.in_flight)
            produced = batch.step(ahead=ahead, guesses=self._guesses if alone else 0)
        settled = settled and batch.computed
        del prompts  # and their hold on the caches, for rows that join
        self._deliver_all(batch, produced)
        self._meter.steps([row.request.tier for row, _ in produced], time.monotonic() - started)
        for one in begun:
            self._start(one)
        if batch.guessed:
            self._meter.guessed(batch.guessed, len(produced) - 1)
            return "", 0
        return (kind, amount) if settled and produced and not batch.broken else ("", 0)

    def _deliver_all(self, batch: DecodeBatch, produced: Sequence[tuple[Row, Token]]) -> None:
        """Send a step's tokens and take out the rows that have ended or whose lane broke."""
        for rows, why in batch.broken:
            self.recovery.resume(rows, why)
        news = {id(row): [token for r, token in produced if r is row] for row, _ in produced}
        gone = []
        for row in batch.rows:
            if row.nan and batch.company(row) > 1:
                self.recovery.suspect("batch", row)
                gone.append(row)
            elif (id(row) in news or row.fault is not None) and self._deliver(row, news.get(id(row), [])):
                if row.fault is None:
                    keep(self.loaded, self.prefixes, batch, row)
                gone.append(row)
        self._remove(batch, gone)
        self._settle_blame()

    def _settle_blame(self) -> None:
        """Start again alone what still runs together in a way that has proved wrong; call when all is delivered."""
        if self._aside.in_pass or "batch" not in self.recovery.settle_blame():
            return
        for batch in (self.batches.shared, self.batches.separate):
            together = [row for row in batch.rows if batch.company(row) > 1]
            self._remove(batch, together)
            for row in together:
                self.recovery.requeue(row)

    def _remove(self, batch: DecodeBatch, gone: Sequence[Row]) -> None:
        try:
            batch.remove(gone)
        except Exception as exc:
            self.recovery.resume([row for row in batch.take_all() if row not in gone], exc)

    def _deliver(self, row: Row, tokens: list[Token]) -> bool:
        if tokens:
            self.recovery.runs_alone(row.request.id)
        return deliver(row, tokens, self.loaded.eos)
