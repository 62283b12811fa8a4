"""Requests over the deaths of engines: nothing comes twice, nothing is missing, the poison alone is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.engine import asked, control, messages
from sidecar.engine.failed_loads import FailedLoads
from sidecar.engine.inflight import POISON, InFlight, Paused, Told
from sidecar.engine.messages import (
    LOAD_DIED,
    Began,
    Embed,
    Generate,
    Load,
    Loaded,
    ModelInfo,
    Piece,
    Refused,
    Request,
    Sampling,
)
from sidecar.engine.wire import LONGEST, Reader, WireError, encode
from sidecar.errors import ApiError

PATH = "/models/a"


@dataclass
class FakeEngine:
    """Answers with tokens 0, 1, 2 … of each choice, from where the request says."""

    open: dict[int, tuple[Generate, dict[int, int]]] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)

    def take(self, flight: InFlight, request: Request) -> None:
        if isinstance(request, Load):
            self.loaded.add(request.path)
            flight.take(Loaded(id=request.id, model=ModelInfo(path=request.path, kind="chat")))
        elif isinstance(request, Generate):
            assert request.path in self.loaded, "a model is there before what needs it"
            at = {i: len(request.received.get(i, ())) for i in range(request.choices) if i not in request.ended}
            self.open[request.id] = (request, at)

    def step(self, flight: InFlight, number: int, index: int) -> None:
        request, at = self.open[number]
        token, last = at[index], (request.max_tokens or 0) - 1
        flight.take(Began(id=number, index=index))
        end = "length" if token == last else None
        flight.take(Piece(id=number, index=index, tokens=(token,), finish=end))
        at[index] += 1
        if end:
            del at[index]


def pump(flight: InFlight, engine: FakeEngine) -> None:
    """Hand over what can be sent, also what a reply to it lets go."""
    while sent := flight.to_send():
        for request in sent:
            engine.take(flight, request)


def job(tokens: int, n: int) -> Generate:
    return Generate(id=0, path=PATH, samplings=(Sampling(),) * n, prompts=("x",), max_tokens=tokens)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=5),
    st.lists(st.integers(0, 30), max_size=60),
)
def test_every_answer_is_whole_whenever_engines_die(jobs: list[tuple[int, int]], script: list[int]) -> None:
    flight, engine = InFlight(lambda path: None), FakeEngine()
    flight.add(Load(id=0, path=PATH), lambda told: None)
    pump(flight, engine)
    got: dict[int, list[Told]] = {}
    for tokens, n in jobs:
        inbox: list[Told] = []
        got[flight.add(job(tokens, n), inbox.append)] = inbox
    fresh = False  # whether anything came since the last death: else a death may make a poison
    for word in [*script, *range(10_000)]:
        pump(flight, engine)
        ready = [(number, index) for number, (_, at) in engine.open.items() for index in at if number in flight.calls]
        if word == 0 and fresh and script:
            engine = FakeEngine()
            flight.died("planted")
            fresh = False
        elif ready:
            engine.step(flight, *ready[word % len(ready)])
            fresh = all(not call.deaths for call in flight.calls.values())
        elif not flight.calls:
            break
    assert not flight.calls
    for (tokens, n), inbox in zip(jobs, got.values(), strict=True):
        for index in range(n):
            pieces = [r for r in inbox if isinstance(r, Piece) and r.index == index]
            assert [t for p in pieces for t in p.tokens] == list(range(tokens))
            assert [p.finish for p in pieces] == [None] * (tokens - 1) + ["length"]
            assert sum(isinstance(r, Began) and r.index == index for r in inbox) == 1


@pytest.mark.parametrize("poison", [0, 1, 2])
def test_the_poison_alone_is_refused(poison: int) -> None:
    flight, engine = InFlight(lambda path: None), FakeEngine()
    flight.add(Load(id=0, path=PATH), lambda told: None)
    pump(flight, engine)
    inboxes: list[list[Told]] = [[], [], []]
    numbers = [flight.add(job(4, 1), inbox.append) for inbox in inboxes]
    bad, deaths = numbers[poison], 0
    while flight.calls:
        pump(flight, engine)
        if bad in engine.open and bad in flight.calls:
            engine, deaths = FakeEngine(), deaths + 1
            flight.died("it crashed")
            continue
        for number in list(engine.open):
            if number in flight.calls:
                engine.step(flight, number, 0)
    assert deaths <= 3
    for i, inbox in enumerate(inboxes):
        refused = [r for r in inbox if isinstance(r, Refused)]
        if i == poison:
            assert [(r.status, r.code) for r in refused] == [(500, POISON)]
        else:
            assert not refused
            assert [t for r in inbox if isinstance(r, Piece) for t in r.tokens] == [0, 1, 2, 3]
        assert any(isinstance(r, Paused) for r in inbox)


def test_what_an_engine_that_never_came_up_got_counts_for_nothing() -> None:
    flight = InFlight(lambda path: None)
    told: list[Told] = []
    flight.add(Load(id=0, path=PATH), told.append)
    for _ in range(9):
        assert len(flight.to_send()) == 1
        flight.died("no such library", up=False)
    assert not told
    flight.fail_all("no such library")
    assert isinstance(told[0], Refused)
    assert not flight.calls


def test_a_model_that_cannot_be_loaded_again_takes_its_requests_along() -> None:
    lost: list[str] = []
    flight, engine = InFlight(lost.append), FakeEngine()
    flight.add(Load(id=0, path=PATH), lambda told: None)
    pump(flight, engine)
    told: list[Told] = []
    flight.add(job(2, 1), told.append)
    pump(flight, engine)
    flight.died("killed")
    (load,) = flight.to_send()
    assert isinstance(load, Load)
    flight.take(Refused(id=load.id, status=422, message="gone", code="model_load_failed"))
    assert lost == [PATH]
    assert isinstance(told[-1], Refused)
    assert not flight.calls


def test_a_load_that_two_engines_died_of_is_a_failed_load_and_no_poison() -> None:
    lost: list[str] = []
    failed: list[str] = []
    flight, engine = InFlight(lost.append, lambda path, message: failed.append(path)), FakeEngine()
    for path in (PATH, "/models/b"):
        flight.add(Load(id=0, path=path), lambda told: None)
    pump(flight, engine)
    waits: list[Told] = []
    others: list[Told] = []
    flight.add(job(2, 1), waits.append)
    flight.add(Embed(id=0, path="/models/b", inputs=("x",)), others.append)
    pump(flight, engine)
    flight.died("killed")
    for _ in range(2):
        (load,) = flight.to_send()
        assert isinstance(load, Load)
        assert load.path == PATH
        flight.died("it was at one piece of work for 5 s")
    assert [(r.status, r.code) for r in waits if isinstance(r, Refused)] == [(503, LOAD_DIED)]
    assert "5 s" in str(waits[-1])
    assert (failed, lost) == ([PATH], [PATH])
    (load,) = flight.to_send()
    assert isinstance(load, Load)
    assert load.path == "/models/b"
    engine.take(flight, load)
    assert [type(r) for r in flight.to_send()] == [Embed]
    assert not any(isinstance(r, Refused) for r in others)


def test_a_model_that_engines_die_of_is_tried_later_each_time() -> None:
    now = [0.0]
    failed = FailedLoads(lambda: now[0])
    for wait in (30, 60, 120, 240, 480, 600, 600):
        failed.note(PATH, "It died.")
        with pytest.raises(ApiError, match=f"again in {wait} s") as caught:
            failed.check(PATH)
        assert (caught.value.status_code, caught.value.retry_after) == (503, wait)
        failed.check("/models/b")
        now[0] += wait
        failed.check(PATH)
    failed.loaded(PATH)
    failed.note(PATH, "It died.")
    with pytest.raises(ApiError, match="again in 30 s"):
        failed.check(PATH)


def test_chats_go_on_first_and_no_long_batch_holds_them_up() -> None:
    """A death with embeddings for an hour in the engine: they come last, and a new chat waits only so long for them."""
    flight, engine = InFlight(lambda path: None), FakeEngine()
    flight.add(Load(id=0, path=PATH), lambda told: None)
    pump(flight, engine)
    embed = flight.add(Embed(id=0, path=PATH, inputs=("x",) * 9999), lambda told: None)
    chat = flight.add(job(4, 1), lambda told: None)
    pump(flight, engine)
    engine = FakeEngine()
    flight.died("killed")
    pump(flight, engine)
    assert list(engine.open) == [chat]
    assert not flight.calls[embed].sent
    engine.step(flight, chat, 0)
    pump(flight, engine)
    assert flight.calls[embed].sent
    late = flight.add(job(4, 1), lambda told: None)
    pump(flight, engine)
    assert late not in engine.open  # the embeddings are tried: they may be the poison
    assert (flight.patience(embed) or 0) > 0
    flight.go_on_without(embed)
    pump(flight, engine)
    assert late in engine.open
    assert flight.patience(embed) is None


def test_a_poison_that_takes_long_is_alone_in_the_end() -> None:
    """Every engine that has it dies, but only after the others' patience with it is over."""
    flight, engine = InFlight(lambda path: None), FakeEngine()
    flight.add(Load(id=0, path=PATH), lambda told: None)
    pump(flight, engine)
    told: list[Told] = []
    poison = flight.add(Embed(id=0, path=PATH, inputs=("x",)), told.append)
    other = flight.add(Embed(id=0, path=PATH, inputs=("y",)), lambda told: None)
    deaths = 0
    while poison in flight.calls:
        pump(flight, engine)
        if flight.patience(poison) is not None:
            flight.go_on_without(poison)
            pump(flight, engine)
        engine, deaths = FakeEngine(), deaths + 1
        flight.died("it crashed")
        assert deaths < 6
    assert [r.code for r in told if isinstance(r, Refused)] == [POISON]
    assert other in flight.calls


def test_a_chat_goes_on_before_the_models_of_others_are_loaded_again() -> None:
    flight, engine = InFlight(lambda path: None), FakeEngine()
    for path in ("/models/b", PATH):
        flight.add(Load(id=0, path=path), lambda told: None)
    pump(flight, engine)
    flight.add(Embed(id=0, path="/models/b", inputs=("x",)), lambda told: None)
    flight.add(job(4, 1), lambda told: None)
    pump(flight, engine)
    flight.died("killed")
    (load,) = flight.to_send()
    assert isinstance(load, Load)
    assert load.path == PATH
    assert flight.to_send() == []
    flight.take(Loaded(id=load.id, model=ModelInfo(path=PATH, kind="chat")))
    assert [type(r) for r in flight.to_send()] == [Generate, Load]


# --- the wire ---------------------------------------------------------------------------------------------
@given(st.binary(max_size=2000), st.lists(st.integers(1, 50), max_size=40))
def test_messages_come_whole_however_the_stream_is_cut(data: bytes, cuts: list[int]) -> None:
    picture = asked.PictureData(param="p", data=data)
    chat = asked.Conversation(messages=({"role": "user", "content": "é"},), pictures=(picture,))
    sent: list[control.Message] = [
        Generate(id=1, path=PATH, samplings=(Sampling(seed=2**62),), conversation=chat, received={0: (1, 2)}),
        Embed(id=2, path=PATH, inputs=("a", (1, 2, 3))),
        control.Pulse(load_progress=0.5, memory={"active": 1}, metered=(("step", (0, 0.5, 1)),)),
        messages.Cancel(id=3),
    ]
    stream = b"".join(encode(m) for m in sent)
    reader = Reader()
    got: list[control.Message] = []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        got.extend(reader.feed(stream[:size]))
        stream = stream[size:]
    assert got == sent


@given(st.binary(min_size=5, max_size=300))
def test_garbage_is_a_wire_error_or_more_is_waited_for(data: bytes) -> None:
    try:
        for message in Reader().feed(data):
            assert encode(message)
    except WireError:
        pass


def test_what_is_too_long_or_has_no_form_is_refused() -> None:
    with pytest.raises(WireError):
        list(Reader().feed((LONGEST + 1).to_bytes(4, "big") + b"\x00"))
    huge = asked.Conversation(messages=({"role": "user", "content": "x", "n": 2**80},))
    with pytest.raises(WireError):
        encode(Generate(id=1, path=PATH, samplings=(Sampling(),), conversation=huge))


def test_who_has_the_least_to_process_anew_goes_on_first_after_a_death() -> None:
    """All suspects wait for the one that is tried: a page of 3,000 tokens before a greeting took a second of each."""
    flight = InFlight(lambda path: None)
    flight.add(Load(id=0, path=PATH), lambda told: None)
    flight.take(Loaded(id=flight.to_send()[0].id, model=ModelInfo(path=PATH, kind="chat")))
    seen = asked.Conversation(messages=(), pictures=(asked.PictureData(data=b"", param="x", side=0),))
    jobs = [job(9, 1), Generate(id=0, path=PATH, samplings=(Sampling(),), conversation=seen), job(9, 1), job(9, 1)]
    numbers = [flight.add(one, lambda told: None) for one in jobs]
    flight.to_send()
    for number, tokens in zip(numbers, (3000, 20, 40, 30), strict=True):
        flight.take(messages.Prepared(id=number, prompt_tokens=(tokens,)))
    flight.take(Piece(id=numbers[3], index=0, tokens=(1,) * 20))
    flight.died("planted")
    reload = next(r for r in flight.to_send() if isinstance(r, Load))
    flight.take(Loaded(id=reload.id, model=ModelInfo(path=PATH, kind="chat")))
    order = []
    while sent := [r for r in flight.to_send() if isinstance(r, Generate)]:
        order += [r.id for r in sent]
        flight.take(Piece(id=sent[0].id, index=0, tokens=(7,)))
    assert order == [numbers[2], numbers[3], numbers[1], numbers[0]]
