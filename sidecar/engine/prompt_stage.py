"""Requests between the queue and their first token: embedded, then processed a piece at a time, alone or in groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sidecar.backend import features, pausing
from sidecar.backend.caches import KVQuantization
from sidecar.backend.loader import LoadedModel
from sidecar.backend.pausing import Cancelled
from sidecar.backend.positions import embed
from sidecar.engine import memory
from sidecar.engine.metrics import Meter
from sidecar.engine.prefill import Begun, Part, Prefill
from sidecar.engine.prefix_cache import PrefixCache, key_of
from sidecar.engine.recovery import Recovery
from sidecar.engine.room import Room
from sidecar.engine.rows import Admitted, GenerationRequest


@dataclass(eq=False)
class Encoding:
    """A picture being encoded; a paused one sits lower on the stack."""

    request: GenerationRequest
    blocks: int = 0  # of the vision tower that are done
    disturbed: bool = False  # something else was worked on between two blocks
    since: float = field(default_factory=time.monotonic)


class PromptStage:
    """Begun prompts of one model."""

    def __init__(
        self,
        loaded: LoadedModel,
        prefixes: PrefixCache,
        room: Room,
        *,
        meter: Meter,
        kv: KVQuantization,
        recovery: Recovery,
        disk: features.Disk | None = None,
    ) -> None:
        self._loaded = loaded
        self._prefixes = prefixes
        self._meter = meter
        self._kv = kv
        self._recovery = recovery
        self._room = room
        self._features = pausing.feature_cache()
        self._towers = features.FeatureMemory(disk=disk)
        features.remember(loaded.model, self._towers)
        room.features = self._towers
        self._cancelled: set[int] = set()
        self.prefills: dict[int, Prefill] = {}
        self.encoding: list[Encoding] = []
        self.blocks = 0  # of the vision tower
        self.disturbances = 0  # units that were carried out inside another one

    @property
    def busy(self) -> bool:
        """Whether any prompt was begun and has no token yet."""
        return bool(self.prefills or self.encoding)

    @property
    def requests(self) -> list[GenerationRequest]:
        """Requests whose prompts are being processed."""
        return [r for p in self.prefills.values() for r in p.requests]

    @property
    def held(self) -> list[tuple[GenerationRequest, int | None]]:
        """Return those requests, each with the tokens of its prompt that the cache has memory for.

        None: its picture is looked at, and it has no cache yet.
        """
        begun = [(r, p.has) for p in self.prefills.values() for r in p.requests]
        return [*begun, *((e.request, None) for e in self.encoding)]

    def named(self, pieces: Sequence[tuple[int, int]]) -> list[tuple[Prefill, int]]:
        """Return the prompts that a policy's pieces are of, each with its number of tokens."""
        return [(self.prefills[key], tokens) for key, tokens in pieces if key in self.prefills]

    def save(self, done: Callable[[], None]) -> bool:
        """Bring one picture's features to the disk; return whether they are on their way."""
        return self._towers.save(done)

    def forget(self) -> None:
        """Drop picture features."""
        self._features = pausing.feature_cache()
        self._towers.clear()

    def cancel(self, request_id: int) -> bool:
        """Take a request out, or note that it ends at the next pause of its picture; return whether it is here."""
        if any(e.request.id == request_id for e in self.encoding):
            self._cancelled.add(request_id)
            return True
        for key, prefill in self.prefills.items():
            if any(r.id == request_id for r in prefill.requests):
                del self.prefills[key]
                if len(prefill.requests) > 1:
                    prefill.drop(request_id)
                    self._put(prefill)
                self._meter.cancelled()
                return True
        return False

    def put_back(self, ids: Sequence[int]) -> None:
        """Put begun prompts back into the queue for want of memory, a group whole; they begin again."""
        for key, prefill in list(self.prefills.items()):
            if any(r.id in ids for r in prefill.requests):
                del self.prefills[key]
                self._recovery.put_back(prefill.requests)

    def check_cancelled(self, request: GenerationRequest) -> None:
        """Raise Cancelled if the request was cancelled while its picture is encoded."""
        if request.id in self._cancelled:
            raise Cancelled

    def begin(self, request: GenerationRequest) -> None:
        """Embed a request's prompt; what a kept prefix holds of it isn't processed again."""
        self._meter.queued(request.tier, time.monotonic() - request.arrived)
        request.sink([Admitted()])
        images = request.prompt.inputs is not None
        held = memory.begin_peak() if images else 0
        if images:
            self.encoding.append(Encoding(request))
        try:
            tokens = [*request.prompt.tokens, *request.resumed]
            prompt = embed(
                self._loaded.model,
                tokens,
                request.prompt.inputs,
                media=request.prompt.media,
                vision_cache=self._features,
            )
            if images and not self.encoding[-1].disturbed:
                self._room.ledger.learn_media(request.prompt.numbers, memory.peak_since() - held)
            self.check_cancelled(request)
            hit = None
            if not self._loaded.can.keep and prompt.length == len(tokens):
                key, least = key_of(tokens, request.prompt.media, self._loaded.media_ids, request.salt)
                hit = self._prefixes.lookup(key, at_least=least)
            cache, start = hit if hit is not None else (None, 0)
            self._meter.prefix(hit=hit is not None, tokens=start)
            self._put(self._prefill([Part(request, prompt)], cache=cache, start=start))
        except Cancelled:
            self._meter.cancelled()
        except Exception as exc:
            self._recovery.fault(request, exc)
        finally:
            self._cancelled.discard(request.id)
            if images:
                self.encoding.pop()

    def begin_group(self, requests: Sequence[GenerationRequest]) -> None:
        """Begin prompts without pictures; those with a kept prefix go on by themselves, the others together."""
        parts: list[Part] = []
        for request in requests:
            key, _ = key_of(request.prompt.tokens, "", self._loaded.media_ids, request.salt)
            if not self._loaded.can.keep and self._prefixes.match(key):
                self.begin(request)
                continue
            self._meter.queued(request.tier, time.monotonic() - request.arrived)
            request.sink([Admitted()])
            self._meter.prefix(hit=False, tokens=0)
            try:
                parts.append(Part(request, embed(self._loaded.model, request.prompt.tokens)))
            except Exception as exc:
                self._recovery.fault(request, exc)
        try:
            if parts:
                self._put(self._prefill(parts))
        except Exception as exc:
            self._recovery.group_failed([p.request for p in parts], exc)

    def _prefill(self, parts: Sequence[Part], *, cache: list[object] | None = None, start: int = 0) -> Prefill:
        return Prefill(self._loaded.model, parts, can=self._loaded.can, cache=cache, start=start, quantization=self._kv)

    def _put(self, prefill: Prefill) -> None:
        self.prefills[prefill.requests[0].id] = prefill

    def drop(self, prefill: Prefill) -> None:
        """Forget a prompt that is done or has failed."""
        self.prefills.pop(prefill.requests[0].id, None)

    def step(self, prefill: Prefill, tokens: int) -> Begun | None:
        """Process up to ``tokens`` more of a prompt; return its rows when it is done."""
        length, before = min(tokens, prefill.remaining) * len(prefill.requests), self.disturbances
        memory.begin_peak()
        try:
            if not (prefill.ready or tokens >= prefill.remaining):
                prefill.step(tokens)
                self._learn(length, before)
                return None
            begun = prefill.finish()
        except Exception as exc:
            self.prefills.pop(prefill.requests[0].id, None)
            self._recovery.group_failed(prefill.requests, exc)
            return None
        self._learn(length, before)
        self.prefills.pop(prefill.requests[0].id)
        return begun

    def _learn(self, tokens: int, disturbances: int) -> None:
        """Record the memory that a pass took, unless others ran inside it."""
        if self.disturbances == disturbances:
            self._room.learn_pass(tokens, memory.over_now())
