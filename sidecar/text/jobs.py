"""The engine's side of the seam: takes the listener's requests, gives its replies.

Three kinds of thread meet here. Requests arrive on the caller's thread and are only looked at; ``_WORKERS`` threads
make prompts of them (tokenizing, pictures, grammars), so that a slow picture holds up no chat; what the engine's
thread produces goes through a queue to one thread more, which turns tokens into text and sends it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config import Settings
from sidecar.engine.messages import (
    LOAD_FAILED,
    Began,
    Cancel,
    Decide,
    Embed,
    Finished,
    Generate,
    Load,
    Loaded,
    Prefilled,
    Prepared,
    Refused,
    Reply,
    Request,
    Shed,
    Tokenize,
    Tokenized,
    Unload,
)
from sidecar.engine.pools import started
from sidecar.engine.rows import Admitted, Done, Event, Failed, GenerationRequest, Started
from sidecar.engine.thread import EngineThread
from sidecar.errors import ApiError, LoadError, check_memory
from sidecar.text import plan as planning
from sidecar.text import vectors
from sidecar.text.decisions import Decisions
from sidecar.text.delta import Delta
from sidecar.text.plan import Plan
from sidecar.text.scores import piece_of, prompt_scores

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel

log = logging.getLogger("sidecar.engine")
spoken = logging.getLogger("sidecar.api")

_WORKERS = 4
_UNLOADED = "The model was unloaded; send the request again."


@dataclass(eq=False, kw_only=True)
class _Running:
    """A job whose rows are in the engine."""

    job: Generate
    loaded: LoadedModel
    plan: Plan
    rows: list[GenerationRequest] = field(default_factory=list)
    open: set[int] = field(default_factory=set)


class Jobs:
    """Runs the listener's requests on an engine. ``emit`` is called from several threads, in each job's order."""

    def __init__(
        self,
        engine: EngineThread,
        settings: Settings,
        emit: Callable[[Reply], None],
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        """``ending`` is called before the last piece of a request is given."""
        self._engine = engine
        self._settings = settings
        self._emit = emit
        self._ending = ending
        self._models: dict[str, LoadedModel] = {}
        self._decisions = Decisions(engine, settings, emit, self._models)
        self._running: dict[int, _Running] = {}
        self._preparing: set[int] = set()  # also loads and the like that go on
        self._embedding: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._pool = started(_WORKERS, "prompt")
        self._scoring = started(_WORKERS, "scores")  # its threads wait for the engine
        self._events: queue.SimpleQueue[tuple[int, int, Sequence[Event]] | None] = queue.SimpleQueue()
        self._output = threading.Thread(target=self._read_events, name="output", daemon=True)
        self._output.start()

    @property
    def busy(self) -> bool:
        """Whether anything is being worked on."""
        return bool(self._running or self._preparing or self._embedding or self._decisions.busy)

    def take(self, request: Request) -> None:
        """Begin with a request; never blocks."""
        if isinstance(request, Load):
            self._load(request)
        elif isinstance(request, Unload):
            self._models.pop(request.path, None)
            self._answer(self._engine.unload(Path(request.path)), request.id)
        elif isinstance(request, Shed):
            self._answer(self._engine.shed(), request.id)
        elif isinstance(request, Cancel):
            self._cancel(request.id)
            self._decisions.cancel(request.id)
        elif isinstance(request, Decide):
            self._decisions.take(request)
        else:
            with self._lock:
                self._preparing.add(request.id)
            pool = self._pool if getattr(request, "prompt_scores", None) is None else self._scoring
            pool.submit(self._guarded, request).add_done_callback(self._looked_after)

    def close(self) -> None:
        """End the threads; what was begun is not answered any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._decisions.close()
        self._scoring.shutdown(wait=False, cancel_futures=True)
        self._events.put(None)

    # --- commands ------------------------------------------------------------------------------------
    def _load(self, request: Load) -> None:
        self._preparing.add(request.id)
        future = self._engine.load(Path(request.path))

        def loaded(done: Future[LoadedModel]) -> None:
            self._preparing.discard(request.id)
            try:
                model = done.result()
                told = planning.info(model)
            except LoadError as exc:
                self._emit(Refused(id=request.id, status=422, message=str(exc), code=LOAD_FAILED))
            except Exception as exc:
                log.exception("a load failed")
                self._emit(Refused(id=request.id, status=500, message=f"{exc}", code=LOAD_FAILED))
            else:
                self._models[request.path] = model
                self._emit(Loaded(id=request.id, model=told))

        future.add_done_callback(loaded)

    def _answer(self, future: Future[None], number: int) -> None:
        self._preparing.add(number)

        def done(one: Future[None]) -> None:
            self._preparing.discard(number)
            exc = one.exception()
            failed = Refused(id=number, status=500, message=str(exc), code="engine_failed")
            self._emit(Finished(id=number) if exc is None else failed)

        future.add_done_callback(done)

    def _cancel(self, number: int) -> None:
        with self._lock:
            self._preparing.discard(number)
            running = self._running.pop(number, None)
            embedding = self._embedding.pop(number, None)
        if embedding is not None:
            embedding.cancel()
        if running is not None:
            self._end(running)

    def _end(self, running: _Running) -> None:
        """Take what still runs of a job out of the engine."""
        for index in running.open:
            self._engine.cancel(Path(running.job.path), running.rows[index].id)
        if self._settings.log_prompts:
            texts = [running.loaded.tokenizer.decode(list(p.tokens)) for p in running.plan.prompts]
            spoken.info("prompts %r, answers %r", texts, [c.answer.content for c in running.plan.choices])

    # --- on the threads that make prompts ------------------------------------------------------------
    def _guarded(self, request: Generate | Embed | Tokenize) -> None:
        """Do a request's work up to the engine; what goes wrong is told to who asked."""
        if request.id not in self._preparing:
            return
        try:
            loaded = self._models.get(request.path)
            if loaded is None:
                raise ApiError(503, _UNLOADED)
            if isinstance(request, Generate):
                self._generate(request, loaded)
            elif isinstance(request, Embed):
                self._embed(request, loaded)
            else:
                self._tokenize(request, loaded)
        except ApiError as exc:
            self._refuse(request.id, exc)
        except Exception as exc:
            check_memory(exc)
            log.exception("request %d could not be made ready", request.id)
            self._refuse(request.id, ApiError(500, f"This request can't be made ready ({str(exc)[:200]})."))

    def _looked_after(self, done: Future[None]) -> None:
        if not done.cancelled() and (exc := done.exception()) is not None:
            self._engine.died(exc)

    def _refuse(self, number: int, exc: ApiError) -> None:
        self._preparing.discard(number)
        self._emit(Refused(id=number, status=exc.status_code, message=exc.message, code=exc.code, param=exc.param))

    def _generate(self, job: Generate, loaded: LoadedModel) -> None:
        made = planning.plan(loaded, job, self._settings)
        running = _Running(job=job, loaded=loaded, plan=made)
        running.rows = [
            planning.row_of(job, choice, loaded.eos, partial(self._produced, job.id, index))
            for index, choice in enumerate(made.choices)
        ]
        running.open = set(range(len(made.choices))) - set(job.ended)
        scores = prompt_scores(self._engine, job, loaded, made.prompts)
        with self._lock:
            if job.id not in self._preparing:
                return
            self._preparing.discard(job.id)
            self._running[job.id] = running
        self._emit(
            Prepared(
                id=job.id,
                prompt_tokens=tuple(len(p.tokens) for p in made.prompts),
                texts=made.texts,
                remarks=made.remarks,
                scores=scores,
            )
        )
        for index in sorted(running.open):
            if made.choices[index].max_tokens == 0:
                self._events.put((job.id, index, [Done("length")]))
                continue
            self._engine.submit(Path(job.path), running.rows[index])

    def _produced(self, number: int, index: int, events: Sequence[Event]) -> None:
        self._events.put((number, index, list(events)))

    def _embed(self, request: Embed, loaded: LoadedModel) -> None:
        texts = planning.texts_of(loaded, request.inputs, self._settings)
        future = self._engine.embed(loaded.path, texts, request.tier, request.query)
        with self._lock:
            if request.id not in self._preparing:
                future.cancel()
                return
            self._preparing.discard(request.id)
            self._embedding[request.id] = future

        def done(one: Future[tuple[list[list[float]], int]]) -> None:
            with self._lock:
                self._embedding.pop(request.id, None)
            reply = vectors.reply_of(request.id, one)
            if reply is not None:
                self._emit(reply)

        future.add_done_callback(done)

    def _tokenize(self, request: Tokenize, loaded: LoadedModel) -> None:
        tokens = planning.tokenize(loaded, request)
        with self._lock:
            self._preparing.discard(request.id)
        self._emit(Tokenized(id=request.id, tokens=tokens))

    # --- on the output thread ------------------------------------------------------------------------
    def _read_events(self) -> None:
        while (item := self._events.get()) is not None:
            number, index, events = item
            with self._lock:
                running = self._running.get(number)
            if running is None or index not in running.open:
                continue
            try:
                self._read(running, index, events)
            except Exception as exc:
                check_memory(exc)
                log.exception("an answer of request %d can't be read", number)
                self._fail(running, Failed(500, f"This answer can't be read ({str(exc)[:200]})."))

    def _read(self, running: _Running, index: int, events: Sequence[Event]) -> None:
        number, choice = running.job.id, running.plan.choices[index]
        answer, delta = choice.answer, Delta()
        tokens: list[int] = []
        finish: str | None = None
        for event in events:
            if isinstance(event, Failed):
                self._fail(running, event)
                return
            if isinstance(event, Admitted):
                self._emit(Began(id=number, index=index))
            elif isinstance(event, Started):
                self._emit(Prefilled(id=number, index=index, cached_tokens=event.cached_tokens))
            elif isinstance(event, Done):
                finish = event.reason
            elif not answer.stopped:
                tokens.append(event.id)
                delta.add(answer.token(event.id, event))
        whole = finish == "stop"
        if finish is None and answer.stopped:
            self._engine.cancel(Path(running.job.path), running.rows[index].id)
            finish = "stop"
        if answer.looping:
            log.info("an answer of request %d is ended: it only repeats itself", number)
        if finish is not None:
            delta.add(answer.finish(whole=whole))
            finish = answer.finish_reason(finish)
            running.open.discard(index)
        if not running.open:
            self._ending()
        tokens, delta = answer.told(tokens, delta, entries=bool(choice.sampling.logprobs) and finish is None)
        if tokens or finish is not None:
            self._emit(piece_of(number, index, choice, running.loaded, tokens, delta, finish))
        if not running.open:
            with self._lock:
                self._running.pop(number, None)
            self._end(running)

    def _fail(self, running: _Running, event: Failed) -> None:
        """End the whole job: of several answers one that failed would be missing."""
        with self._lock:
            if self._running.pop(running.job.id, None) is None:
                return
        self._end(running)
        code = event.code or "generation_failed"
        self._emit(Refused(id=running.job.id, status=event.status, message=event.message, code=code))
