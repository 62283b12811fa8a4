"""The MLX side of the engine for one chat model: carries out the policy's actions. Engine thread only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import mlx.core as mx

from sidecar.backend import pausing
from sidecar.backend.loader import LoadedModel
from sidecar.backend.pausing import Cancelled, Encoding
from sidecar.engine import decoding
from sidecar.engine.admission import KVBudget
from sidecar.engine.decoding import Row, Rows
from sidecar.engine.messages import Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.prefill import KVQuantization, Part, Prefill, embed
from sidecar.engine.prefix_cache import PrefixCache, key_of
from sidecar.engine.rows import Admitted, Done, Event, Failed, GenerationRequest, Started, Token
from sidecar.engine.scheduler import Action, Begin, Decode, Encode, Policy, View, Waiting
from sidecar.engine.scheduler import Prefill as PrefillAction
from sidecar.engine.tiers import Batches

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
        memory_limit: Callable[[], int],
    ) -> None:
        self.loaded = loaded
        self.policy = policy
        self.prefixes = prefix_cache
        self._meter = meter
        self._poll = poll
        self._kv = kv
        self._guesses = guesses
        self._features = pausing.feature_cache()
        self.waiting: dict[int, GenerationRequest] = {}
        self.prefills: dict[int, Prefill] = {}
        self.batches = Batches(loaded.model)
        self._encoding: list[Encoding] = []
        self._cancelled: set[int] = set()
        self._solo: set[int] = set()  # requests whose group failed
        self._groups = True  # whether this model takes several prompts at once
        self.budget = KVBudget(memory_limit, prefix_cache)
        self._paused_for = 0.0
        pausing.install_pause(loaded.model, self._pause)

    # --- queue ---------------------------------------------------------------------------------------
    @property
    def busy(self) -> bool:
        """Whether anything is queued or running."""
        return bool(self.waiting or self.prefills or self._encoding or len(self.batches))

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        self.waiting[request.id] = request

    def cancel(self, request_id: int) -> None:
        """Drop a request wherever it is; its row is free at the next step."""
        self._solo.discard(request_id)
        if self.waiting.pop(request_id, None) is not None or self._drop_prompt(request_id):
            self._meter.cancelled()
            return
        if any(e.request.id == request_id for e in self._encoding):
            self._cancelled.add(request_id)
            return
        for batch in (self.batches.shared, self.batches.aside):
            gone = [row for row in batch.rows if row.request.id == request_id]
            if gone:
                self._keep(batch, gone[0])
                batch.remove(gone)
                self._meter.cancelled()

    def fail_all(self, status: int, message: str) -> None:
        """End every request with an error."""
        for request in [*self.waiting.values(), *self._running()]:
            request.sink([Failed(status, message)])
        self.waiting.clear()
        self.prefills.clear()
        self.batches.clear()

    def forget(self) -> None:
        """Drop kept prefixes and image features."""
        self.prefixes.clear()
        self._features = pausing.feature_cache()

    def view(self) -> View:
        """What the policy sees."""
        room = self.budget.room(self._running()) if self.waiting else 0.0
        return View(
            waiting=tuple(self._waiting(r, room) for r in self.waiting.values()),
            prefilling=tuple(p.seen() for p in self.prefills.values()),
            rows={tier: self.batches.count(tier) for tier in Tier},
            along=self.batches.along,
            mixable=self.batches.mixable,
            encoding=tuple(e.request.tier for e in self._encoding),
        )

    def _waiting(self, request: GenerationRequest, room: float) -> Waiting:
        return Waiting(
            id=request.id,
            tier=request.tier,
            priority=request.priority,
            arrived=request.arrived,
            tokens=len(request.prompt.tokens),
            images=request.prompt.inputs is not None,
            alone=bool(request.resumed) or request.id in self._solo or not self._groups,
            fits=self.budget.fits(request, room),
        )

    def _running(self) -> list[GenerationRequest]:
        return [row.request for row in self.batches] + [r for p in self.prefills.values() for r in p.requests]

    # --- actions -------------------------------------------------------------------------------------
    def perform(self, action: Action, view: View) -> None:
        """Carry out one action and tell the policy what it cost."""
        start = time.monotonic()
        paused = self._paused_for
        try:
            kind, size = self._do(action, view)
        finally:
            seconds = time.monotonic() - start - (self._paused_for - paused)
            self.policy.done(action, view, seconds)
            log.debug("%s took %.1f ms", action, seconds * 1000)
        if kind == "prefill":
            self.policy.costs.learn_prefill(size, seconds)
        elif kind:
            self.policy.costs.learn(kind, size, seconds)

    def _do(self, action: Action, view: View) -> tuple[str, int]:
        if isinstance(action, Begin):
            request = self.waiting.pop(action.id)
            if action.company:
                company = self.budget.admitted(request, [self.waiting[n] for n in action.company], self._running())
                self._begin_group([request, *(self.waiting.pop(r.id) for r in company)])
                return "", 0
            self._begin(request)
            return ("", 0) if request.prompt.inputs is not None else ("begin", 1)
        if isinstance(action, PrefillAction):
            return self._prefill(self.prefills[action.id], action.tokens)
        if isinstance(action, Decode):
            return self._decode(action)
        return "", 0

    def _begin(self, request: GenerationRequest) -> None:
        self._meter.queued(request.tier, time.monotonic() - request.arrived)
        request.sink([Admitted()])
        images = request.prompt.inputs is not None
        if images:
            self._encoding.append(Encoding(request))
        try:
            tokens = [*request.prompt.tokens, *request.resumed]
            key = key_of(tokens, request.prompt.media, self.loaded.media_ids)
            last_media = (
                max((i for i, t in enumerate(tokens) if t in self.loaded.media_ids), default=-1) if images else -1
            )
            hit = self.prefixes.lookup(key, at_least=last_media + 1)
            embeds, kwargs = embed(self.loaded.model, request, vision_cache=self._features)
            if request.id in self._cancelled:
                raise Cancelled
            cache, start = hit if hit is not None else (None, 0)
            self._meter.prefix(hit=hit is not None, tokens=start)
            part = Part(request, embeds, kwargs)
            self._put_prompt(Prefill(self.loaded.model, [part], cache=cache, start=start, quantization=self._kv))
        except Cancelled:
            self._meter.cancelled()
        except Exception as exc:
            self._fault(request, exc)
        finally:
            self._cancelled.discard(request.id)
            if images:
                self._encoding.pop()

    def _begin_group(self, requests: list[GenerationRequest]) -> None:
        """Begin prompts without images; those with a kept prefix go on by themselves, the others together."""
        parts: list[Part] = []
        for request in requests:
            key = key_of(request.prompt.tokens, "", self.loaded.media_ids)
            if self.prefixes.match(key):
                self._begin(request)
                continue
            self._meter.queued(request.tier, time.monotonic() - request.arrived)
            request.sink([Admitted()])
            self._meter.prefix(hit=False, tokens=0)
            try:
                parts.append(Part(request, *embed(self.loaded.model, request)))
            except Exception as exc:
                self._fault(request, exc)
        try:
            if parts:
                self._put_prompt(Prefill(self.loaded.model, parts, quantization=self._kv))
        except Exception as exc:
            self._groups = len(parts) == 1
            self._ungroup([p.request for p in parts], exc)

    def _put_prompt(self, prefill: Prefill) -> None:
        self.prefills[prefill.requests[0].id] = prefill

    def _drop_prompt(self, request_id: int) -> bool:
        """Take a request out of the prompt it is in; whether there was one."""
        for key, prefill in self.prefills.items():
            if any(r.id == request_id for r in prefill.requests):
                del self.prefills[key]
                if len(prefill.requests) > 1:
                    prefill.drop(request_id)
                    self._put_prompt(prefill)
                return True
        return False

    def _ungroup(self, requests: Sequence[GenerationRequest], exc: Exception) -> None:
        """A group failed: a request by itself ends with the error, several are tried one by one."""
        if len(requests) == 1:
            self._fault(requests[0], exc)
            return
        log.warning("a group of %d prompts failed; they are tried one by one", len(requests), exc_info=exc)
        for request in requests:
            self._solo.add(request.id)
            self.waiting[request.id] = request

    def _prefill(self, prefill: Prefill, tokens: int) -> tuple[str, int]:
        before, rows = prefill.remaining, len(prefill.requests)
        try:
            if prefill.ready or tokens >= before:
                self._finish(prefill)
                return ("finish", rows) if before <= 1 else ("prefill", before * rows)
            prefill.step(tokens)
            done = before - prefill.remaining
        except Exception as exc:
            self.prefills.pop(prefill.requests[0].id, None)
            self._ungroup(prefill.requests, exc)
            return "", 0
        return "prefill", done * rows

    def _finish(self, prefill: Prefill) -> None:
        begun = prefill.finish()
        self.prefills.pop(prefill.requests[0].id)
        tier, cache = prefill.requests[0].tier, begun.cache
        self.budget.measure(cache, tokens=prefill.processed + 1, rows=len(begun.rows))
        now = time.monotonic()
        ended = []
        for row, token in zip(begun.rows, begun.tokens, strict=True):
            request = row.request
            self._solo.discard(request.id)
            try:
                decoding.accept(row, token.id)
                self._meter.first_token(tier, now - request.arrived, prompt=len(request.prompt.tokens))
                if not request.retries:
                    request.sink([Started(row.cached_tokens)])
                over = self._deliver(row, [token])
            except Exception as exc:  # its own fault: the others of its group have their tokens by now
                row.fault = _first_line(exc)
                self._fault(request, exc)
                over = True
            if over:
                ended.append(row)
        fresh = Rows(self.loaded.model)
        try:
            fresh.add(begun.rows, cache, begun.chosen, begun.rope)
            for row in ended:
                if row.fault is None:
                    self._keep(fresh, row)
            fresh.remove(ended)
            self.batches.of(tier).absorb(fresh)
        except Exception as exc:
            known = self.batches.reset(self.batches.of(tier))
            self._resume(known + [row for row in begun.rows if row not in ended and row not in known], exc)

    def _decode(self, action: Decode) -> tuple[str, int]:
        started = time.monotonic()
        running = list(self.batches)
        try:
            batch = self.batches.arranged(action.tier, action.along)
        except Exception as exc:
            self.batches.clear()
            self._resume(running, exc)
            return "", 0
        size = len(batch)
        # Alone a batch works one step ahead where that pays. A step that only reads what was in flight teaches no cost.
        alone = size == len(running) and not (self.prefills or self._encoding)
        ahead = alone and self.policy.ahead(action.tier, size)
        settled = batch.steady and (ahead or not batch.in_flight)
        try:
            produced = batch.step(ahead=ahead, guesses=self._guesses if alone else 0)
        except Exception as exc:
            self._resume(self.batches.reset(batch), exc)
            return "", 0
        news = {id(row): [token for r, token in produced if r is row] for row, _ in produced}
        gone = [row for row in batch.rows if id(row) in news and self._deliver(row, news[id(row)])]
        gone += [row for row in batch.rows if row.fault is not None and row not in gone]
        for row in gone:
            if row.fault is not None and not any(r is row for r, _ in produced):
                row.request.sink([Failed(500, f"This answer ended early: {row.fault}.")])
            elif row.fault is None:
                self._keep(batch, row)
        try:
            batch.remove(gone)
        except Exception as exc:
            self._resume(self.batches.reset(batch), exc)
        seconds = time.monotonic() - started
        for tier in Tier:
            if count := sum(row.request.tier is tier for row, _ in produced):
                self._meter.step(tier, seconds, count)
        if batch.guessed:
            self._meter.guessed(batch.guessed, len(produced) - 1)
            return "", 0
        return ("decode", size) if settled and produced else ("", 0)

    def _deliver(self, row: Row, tokens: list[Token]) -> bool:
        """Send tokens to a row's client; whether the row has ended."""
        request = row.request
        if row.fault is not None:
            request.sink([Failed(500, f"This answer ended early: {row.fault}.")])
            return True
        reason = None
        end = next((i for i, token in enumerate(tokens) if token.id in self.loaded.eos), None)
        events: list[Event] = list(tokens[:end])
        if end is not None or (request.constraint is not None and request.constraint.finished):
            reason = "stop"
        elif len(row.answer) >= request.max_tokens:
            reason = "length"
        if reason is not None:
            events.append(Done(reason))
        request.sink(events)
        return reason is not None

    def _keep(self, batch: Rows, row: Row) -> None:
        """Keep an ending row's cache as a prefix for the next turn."""
        if self._kv.bits:
            return
        try:
            tokens = [*row.request.prompt.tokens, *row.answer[: row.fed]]
            if len(row.answer) < row.fed:
                return  # the cache is ahead of what was read
            key = key_of(tokens, row.request.prompt.media, self.loaded.media_ids)
            self.prefixes.store(key, batch.cache, batch.rows.index(row), row.request.tier)
        except Exception:
            log.exception("a prefix could not be kept")

    # --- faults --------------------------------------------------------------------------------------
    def _fault(self, request: GenerationRequest, exc: Exception) -> None:
        log.error("request %d failed", request.id, exc_info=exc)
        request.sink([Failed(500, f"The model failed on this request: {_first_line(exc)}")])

    def _resume(self, rows: Sequence[Row], exc: Exception) -> None:
        """A batch broke: its rows go back to the queue with the tokens they have; a row that was there twice ends."""
        log.error("a decode batch broke; its rows are resumed", exc_info=exc)
        mx.clear_cache()
        for row in rows:
            request = row.request
            if row.fault is not None or request.retries:
                request.sink([Failed(500, f"The model failed on this request: {_first_line(exc)}")])
                continue
            request.retries += 1
            request.resumed = tuple(row.answer)
            self.waiting[request.id] = request

    # --- stepping aside ------------------------------------------------------------------------------
    def _pause(self) -> None:
        """Between two vision blocks: do what is more urgent, then return to the image."""
        if not self._encoding:
            return
        current = self._encoding[-1]
        now = time.monotonic()
        view = self.view()
        self.policy.done(Encode(), view, now - current.since)
        self.policy.costs.learn("encode", 1, now - current.since)
        while True:
            self._poll()
            if current.request.id in self._cancelled:
                raise Cancelled
            view = self.view()
            action = self.policy.decide(view)
            if isinstance(action, Encode) or not isinstance(action, (Begin, PrefillAction, Decode)):
                break
            self.perform(action, view)
        after = time.monotonic()
        self._paused_for += after - current.since  # the block itself was accounted for above
        current.since = after


def _first_line(exc: Exception) -> str:
    text = str(exc).strip()
    return (text.splitlines()[0] if text else type(exc).__name__)[:300]
