"""Requests in flight, over the deaths of engines. Pure bookkeeping: no IO, no clock.

Theory of operation
-------------------
Every request is kept, with what came of it so far, until its last reply. When the engine dies, the requests it had are
sent to the next one, each with the tokens of its answer that were received: a token's choice depends on the prompt, the
tokens before it, the seed and its position alone, so the answer goes on as if nothing had been. A reply is whole or it
is not there (``wire``), and what a reply says was received is never sent again; so nothing comes twice and nothing is
missing.

Some request may be what killed the engine. All that it had are suspects then, and are tried again one by one: the next
is sent once the one before has made progress (a token more, or an end), which clears it. A suspect that was alone in
the engine when that died again, with no progress between, is the poison: it alone is refused. Chats come first, since
embeddings show no progress before their end; and nobody waits longer for a suspect than ``patience`` says, or an hour's
batch would hold up every chat after a death that it had no part in. The patience grows with the deaths, up to no limit
at all, so that a poison which takes long to kill is alone with the engine in the end.

A load that two engines died of is no poison: nobody asked for anything wrong. It ends as a load that failed, and with
it what waits for that model (``failed_loads``).

Models are loaded again one by one, the one that the first suspect needs before the others, and suspects don't wait for
the models of others.

A worked timeline, with chats A and B and a picture P whose decoding crashes:

    0.0 s   A and B decode, P is sent; the engine dies. All three are suspects; their models are loaded again first
    1.2 s   A is sent alone with its 40 tokens, prefills, gives its 41st: cleared
    1.4 s   B is sent beside A, gives its next token: cleared
    1.5 s   P is sent beside A and B; the engine dies. P has died twice, A and B once: P goes first now
    2.7 s   P is sent alone; the engine dies. P was alone: it gets a 500. A and B go on as before
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sidecar.engine.failed_loads import refusal
from sidecar.engine.messages import (
    Began,
    Cancel,
    Decide,
    Embed,
    Finished,
    Generate,
    Load,
    Loaded,
    ModelInfo,
    Piece,
    Prefilled,
    Prepared,
    Refused,
    Reply,
    Request,
    Shed,
    Tier,
    Tokenize,
    Unload,
)

POISON = "engine_died"
"""The code of a request that the engine died of twice."""

_PATIENCE = (2.0, 15.0)  # seconds, by deaths
_A_PICTURE = 1000  # tokens that a picture's decoding and encoding counts for


@dataclass(frozen=True, kw_only=True)
class Paused:
    """Tells who waits for ``id`` that the engine died and is started again. Not sent anywhere."""

    id: int


Told = Reply | Paused


@dataclass(eq=False, kw_only=True)
class Call:
    """One request. ``deaths``: of engines that had it, since it last made progress; ``passed``: nobody waits for it."""

    request: Request
    deliver: Callable[[Told], None]
    sent: bool = False
    deaths: int = 0
    passed: bool = False
    prepared: bool = False
    prompt_tokens: int = 0
    began: set[int] = field(default_factory=set)
    prefilled: set[int] = field(default_factory=set)
    received: dict[int, list[int]] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    @property
    def choices(self) -> int:
        """How many answers there will be."""
        return self.request.choices if isinstance(self.request, Generate) else 1

    @property
    def path(self) -> str | None:
        """The model it needs in memory."""
        return self.request.path if isinstance(self.request, Generate | Embed | Tokenize | Decide) else None

    def again(self) -> Request:
        """Return the request to send: what was received of its answers goes with it."""
        if not isinstance(self.request, Generate):
            return self.request
        received = {index: tuple(tokens) for index, tokens in self.received.items()}
        return replace(self.request, received=received, ended=tuple(sorted(self.ended)))


class InFlight:
    """``lost`` is told of a model that can't be loaded again after a death, ``load_died`` of one engines die of."""

    def __init__(
        self, lost: Callable[[str], None], load_died: Callable[[str, str], None] = lambda path, message: None
    ) -> None:
        self._lost = lost
        self._load_died = load_died
        self._next = 1
        self.calls: dict[int, Call] = {}
        self.models: dict[str, ModelInfo] = {}  # that should be in memory
        self._ready: set[str] = set()  # that are, in this engine

    # --- coming and going ----------------------------------------------------------------------------
    def add(self, request: Request, deliver: Callable[[Told], None]) -> int:
        """Keep a request and return its number."""
        number = self._next
        self._next += 1
        self.calls[number] = Call(request=replace(request, id=number), deliver=deliver)
        return number

    def forget(self, number: int) -> Cancel | None:
        """Drop a request that nobody waits for; returns what the engine must be told."""
        call = self.calls.pop(number, None)
        if call is None or not call.sent or call.path is None:
            return None
        return Cancel(id=number)

    def running(self, tier: Tier) -> int:
        """Return how many answers of a tier are being worked on."""
        return sum(
            len(call.began - call.ended)
            for call in self.calls.values()
            if isinstance(call.request, Generate) and call.request.tier is tier
        )

    def describe(self) -> list[str]:
        """Return a line about each request: its number and kind, what was sent and what came."""
        return [
            f"{number} {type(call.request).__name__} of {call.path or _path(call.request)}: sent {call.sent}, "
            f"deaths {call.deaths}, passed {call.passed}, prepared {call.prepared}, began {sorted(call.began)}, "
            f"tokens { {i: len(t) for i, t in call.received.items()} }, ended {sorted(call.ended)}"
            for number, call in self.calls.items()
        ]

    # --- to the engine -------------------------------------------------------------------------------
    def to_send(self) -> list[Request]:
        """Return what the engine should get now; it counts as sent."""
        going = self._next_calls()
        for call in going:
            call.sent = True
            if isinstance(call.request, Unload):
                self.models.pop(call.request.path, None)
                self._ready.discard(call.request.path)
        return [call.again() for call in going]

    def _next_calls(self) -> list[Call]:
        unsent = [call for call in self.calls.values() if not call.sent]
        suspects = sorted((call for call in self.calls.values() if call.deaths), key=_order)
        if not suspects:
            return [call for call in unsent if self._can_go(call)]
        tried = [call for call in suspects if call.sent and not call.passed]
        following = [] if tried else [c for c in suspects if not c.sent and self._can_go(c)][:1]
        if not tried and not following and all(call.sent for call in suspects):
            following = [call for call in unsent if self._can_go(call)]  # those still tried have had their time
        needed = {path: -place for place, path in enumerate(c.path for c in reversed(suspects)) if path is not None}
        loads = [c for c in unsent if self._reload(c) and not c.deaths and c not in following]
        if any(self._reload(c) and (c.sent or c in following) for c in self.calls.values()):
            loads = []
        loads.sort(key=lambda call: needed.get(_path(call.request), 1))
        return following + loads[:1]

    def patience(self, number: int) -> float | None:
        """Return for how many seconds others wait for a request that was sent; None: they don't, or without limit."""
        call = self.calls.get(number)
        if call is None or not call.sent or call.passed or not 0 < call.deaths <= len(_PATIENCE):
            return None
        return _PATIENCE[call.deaths - 1]

    def go_on_without(self, number: int) -> None:
        """Let others be sent beside a suspect that takes its time."""
        if number in self.calls:
            self.calls[number].passed = True

    def _can_go(self, call: Call) -> bool:
        return call.path is None or call.path in self._ready or call.path not in self.models

    def _reload(self, call: Call) -> bool:
        return isinstance(call.request, Load) and call.request.path in self.models

    # --- from the engine -----------------------------------------------------------------------------
    def take(self, reply: Reply) -> None:
        """Note a reply and hand it on, unless it says what an earlier engine said."""
        call = self.calls.get(reply.id)
        if call is None:
            return
        if isinstance(reply, Prepared):
            if call.prepared:
                return
            call.prepared, call.prompt_tokens = True, sum(reply.prompt_tokens)
        elif isinstance(reply, Began):
            if reply.index in call.began:
                return
            call.began.add(reply.index)
        elif isinstance(reply, Prefilled):
            if reply.index in call.prefilled:
                return
            call.prefilled.add(reply.index)
        elif isinstance(reply, Piece):
            call.deaths, call.passed = 0, False
            call.received.setdefault(reply.index, []).extend(reply.tokens)
            if reply.finish is not None:
                call.ended.add(reply.index)
            if len(call.ended) == call.choices:
                del self.calls[reply.id]
        else:
            del self.calls[reply.id]
        if isinstance(reply, Loaded):
            self.models[reply.model.path] = reply.model
            self._ready.add(reply.model.path)
        call.deliver(reply)

    def died(self, reason: str, *, up: bool = True) -> None:
        """Make ready for the next engine: who is tried again, who is refused, which models are loaded anew.

        ``up``: it had come up; what was sent to one that did not was never looked at.
        """
        self._ready.clear()
        sent = [call for call in self.calls.values() if call.sent]
        for call in sent:
            call.sent, call.passed, number = False, False, call.request.id
            if isinstance(call.request, Unload | Shed):
                self._end(call, Finished(id=number))  # it gave back all it had
            elif not up:
                continue
            elif call.deaths and len(sent) == 1 and isinstance(call.request, Load):
                refused = refusal(number, reason)
                self._load_died(call.request.path, refused.message)
                self._end(call, refused)
            elif call.deaths and len(sent) == 1:
                text = f"The engine died of this request twice ({reason}); it is not tried again."
                self._end(call, Refused(id=number, status=500, message=text, code=POISON))
            else:
                call.deaths += 1
                call.deliver(Paused(id=call.request.id))
        loading = {c.request.path for c in self.calls.values() if isinstance(c.request, Load)}
        for path in list(self.models):
            if path not in loading:
                self._load_again(path)

    def fail_all(self, reason: str) -> None:
        """Refuse everything: there will be no engine."""
        for call in list(self.calls.values()):
            text = f"The engine does not come up ({reason})."
            self._end(call, Refused(id=call.request.id, status=503, message=text, code="engine_failed"))

    def _end(self, call: Call, reply: Finished | Refused) -> None:
        self.calls.pop(call.request.id, None)
        call.deliver(reply)

    def _load_again(self, path: str) -> None:
        def told(reply: Told) -> None:
            if isinstance(reply, Refused):
                self.models.pop(path, None)
                self._lost(path)
                for call in [c for c in self.calls.values() if c.path == path]:
                    self._end(call, replace(reply, id=call.request.id))

        self.add(Load(id=0, path=path), told)


def _path(request: Request) -> str:
    return "" if isinstance(request, Shed | Cancel) else request.path


def _order(call: Call) -> tuple[int, int, int, int]:
    """Put first who died most, then loads, then what shows progress soonest.

    Of chats that is the one with the fewest tokens to process anew: all of them wait for it.
    """
    kind = 0 if isinstance(call.request, Load) else 1 if isinstance(call.request, Generate | Tokenize) else 2
    if not isinstance(call.request, Generate):
        return (-call.deaths, kind, 0, 0)
    again = call.prompt_tokens + sum(map(len, call.received.values()))
    seen = call.request.conversation is not None and bool(call.request.conversation.pictures)
    return (-call.deaths, kind, call.request.tier, again + _A_PICTURE * seen)
