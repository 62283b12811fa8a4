"""The engine: one thread that alone owns MLX, and the commands other threads give it.

MLX is imported on that thread, at the first model. If the thread dies, ``on_death`` is called: a server
without an engine must not go on listening.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sidecar.config import Settings
from sidecar.engine.actions import Call, Idle, Unit
from sidecar.engine.messages import Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.rows import GenerationRequest
from sidecar.engine.scheduler import Policy
from sidecar.errors import LoadError

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel
    from sidecar.engine.runner import ModelRunner

log = logging.getLogger("sidecar.engine")

T = TypeVar("T")

EMBED_ROWS = 8  # texts of one embedding unit


@dataclass(eq=False, kw_only=True)
class _Embedding:
    """An embedding request, worked off a few texts at a time."""

    path: Path
    texts: list[str]
    tier: Tier
    future: Future[tuple[list[list[float]], int]]
    arrived: float = field(default_factory=time.monotonic)
    id: int = 0
    done: list[list[float]] = field(default_factory=list)
    tokens: int = 0


class EngineThread:
    """Starts its thread at the first command."""

    def __init__(self, settings: Settings, meter: Meter, *, on_death: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._meter = meter
        self._on_death = on_death
        self._commands: queue.SimpleQueue[tuple[Callable[[], None], bool] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self.models: dict[Path, ModelRunner] = {}
        self._embedders: dict[Path, LoadedModel] = {}
        self._calls: dict[int, _Embedding] = {}
        self._deferred: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._loading = False
        self._working = False  # inside a piece of work
        self._loaded_at = 0.0  # when the load now running last let others work
        self._beat: float | None = None  # when the work now running began
        self._next_call = 1
        self.load_progress: float | None = None

    # --- from any thread -----------------------------------------------------------------------------
    def load(self, path: Path) -> Future[LoadedModel]:
        """Load a model folder; the future raises ``loader.LoadError``."""
        future: Future[LoadedModel] = Future()
        self._put(lambda: self._load(path, future), heavy=True)
        return future

    def unload(self, path: Path) -> Future[None]:
        """Let a model's memory go; what still uses it ends with an error."""
        future: Future[None] = Future()
        self._put(lambda: _settle(future, lambda: self._unload(path)), heavy=True)
        return future

    def submit(self, path: Path, request: GenerationRequest) -> None:
        """Queue a request for the model loaded from ``path``."""
        self._put(lambda: self._submit(path, request))

    def cancel(self, path: Path, request_id: int) -> None:
        """Drop a request of the model loaded from ``path``; unknown ones are ignored."""
        self._put(lambda: self._cancel(path, request_id))

    def embed(self, path: Path, texts: Sequence[str], tier: Tier) -> Future[tuple[list[list[float]], int]]:
        """Vectors and token count of ``texts`` by the embedding model loaded from ``path``."""
        future: Future[tuple[list[list[float]], int]] = Future()
        job = _Embedding(path=path, texts=list(texts), tier=tier, future=future)
        self._put(lambda: self._queue_call(job))
        return future

    def shed(self) -> Future[None]:
        """Give up what only saves time: kept prefixes, image features, MLX's freed buffers."""
        future: Future[None] = Future()
        self._put(lambda: _settle(future, self._shed), heavy=True)
        return future

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread; running requests end with an error."""
        thread = self._thread
        if thread is not None:
            self._stopping = True
            self._commands.put(None)
            thread.join(timeout)

    def stalled_for(self) -> float:
        """Seconds the piece of work now running has taken; 0 when idle."""
        beat = self._beat
        return 0.0 if beat is None else time.monotonic() - beat

    def _put(self, command: Callable[[], None], *, heavy: bool = False) -> None:
        self._commands.put((command, heavy))
        with self._start:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
                self._thread.start()

    # --- on the engine's thread ----------------------------------------------------------------------
    def _main(self) -> None:
        try:
            while not self._stopping:
                self._poll(block=not self._busy())
                if not self._stopping and self._busy():
                    self._beat = time.monotonic()
                    self._work()
            for runner in self.models.values():
                runner.fail_all(503, "The server stopped before this answer was finished.")
        except BaseException as exc:
            log.critical("the engine thread died", exc_info=exc)
            self._on_death(exc)

    def _busy(self) -> bool:
        return bool(self._calls) or any(runner.busy for runner in self.models.values())

    def _poll(self, *, block: bool = False) -> None:
        """Carry out the commands that came; with ``block`` wait for one.

        Inside a piece of work or a load, other loads and what gives memory back only are noted: a load that began while
        a picture is encoded would hold up every stream for as long as it takes.
        """
        nested = self._working or self._loading
        if block and not self._deferred:
            self._beat = None
        while True:
            if self._deferred and not nested:
                self._run(self._deferred.popleft())
                block = False
                continue
            try:
                item = self._commands.get(block=block)
            except queue.Empty:
                return
            if item is None:
                self._stopping = True
                return
            command, heavy = item
            self._beat = time.monotonic()
            block = False
            if heavy:
                self._deferred.append(command)
            else:
                self._run(command)

    def _run(self, command: Callable[[], None]) -> None:
        """Carry out one command. What it raises is told to who waits for it; here it must not end the thread."""
        try:
            command()
        except Exception:
            log.exception("a command of the engine failed")

    def _work(self) -> None:
        self._working = True
        try:
            self._step()
        finally:
            self._working = False

    def _step(self) -> None:
        runner = next((c for c in self.models.values() if c.busy), None)
        units = tuple(Unit(id=c.id, tier=c.tier, arrived=c.arrived) for c in self._calls.values())
        if runner is None:
            first = min(units, key=lambda u: (u.tier, u.arrived))
            self._run_call(first.id)
            return
        view = replace(runner.view(), calls=units)
        action = runner.policy.decide(view)
        if isinstance(action, Call):
            start = time.monotonic()
            self._run_call(action.id)
            seconds = time.monotonic() - start
            runner.policy.done(action, view, seconds)
            runner.policy.costs.learn("call", 1, seconds)
        elif isinstance(action, Idle):
            time.sleep(0.005)  # what waits has no room yet
        else:
            runner.perform(action, view)

    def _load(self, path: Path, future: Future[LoadedModel]) -> None:
        if future.cancelled():
            return
        self._loading, self.load_progress = True, 0.0
        self._loaded_at = time.monotonic()
        try:
            from sidecar.backend import loader
            from sidecar.engine.grammar import Grammars
            from sidecar.engine.memory import set_limits

            set_limits()
            loaded = loader.load(path, self._progress)
            loaded.grammars = Grammars(loaded.tokenizer, loaded.eos)
            if loaded.kind == "chat":
                self.models[path] = self._runner(loaded)
            else:
                self._embedders[path] = loaded
        except Exception as exc:
            _fail(future, exc)
        else:
            _tell(future, loaded)
        finally:
            self._loading, self.load_progress = False, None

    def _progress(self, part: float) -> None:
        """A step of a load is done: for as long as it took, those who run already go on."""
        self.load_progress = round(part, 3)
        now = time.monotonic()
        took = now - self._loaded_at
        self._poll()
        while not self._working and not self._stopping and self._busy() and time.monotonic() - now < took:
            self._beat = time.monotonic()
            self._work()
            self._poll()
        self._loaded_at = self._beat = time.monotonic()

    def _runner(self, loaded: LoadedModel) -> ModelRunner:
        from sidecar.backend.caches import KVQuantization
        from sidecar.engine import memory, speculation
        from sidecar.engine.prefix_cache import PrefixCache
        from sidecar.engine.runner import ModelRunner

        s = self._settings
        try:
            kv = KVQuantization.of(s.kv_bits, loaded.config)
        except ValueError as exc:
            raise LoadError(f"{loaded.path.name} can't be served with a quantized KV cache: {exc}.") from exc
        if s.speculative_tokens:
            try:
                speculation.check(loaded.model)
            except ValueError as exc:
                raise LoadError(f"{loaded.path.name} can't be served with guessed tokens: {exc}.") from exc
        policy = Policy(gap_bound=s.gap_bound, least_batch_share=s.batch_share, max_rows=s.max_rows)
        return ModelRunner(
            loaded,
            policy=policy,
            prefix_cache=PrefixCache(memory.prefix_limit(s.prefix_cache_mb)),
            meter=self._meter,
            kv=kv,
            guesses=s.speculative_tokens,
            poll=self._poll,
            memory_limit=memory.kv_limit,
        )

    def _unload(self, path: Path) -> None:
        runner = self.models.pop(path, None)
        if runner is not None:
            runner.fail_all(503, "The model was unloaded.")
            runner.forget()
        self._embedders.pop(path, None)
        del runner
        self._give_back()

    def _shed(self) -> None:
        for runner in self.models.values():
            runner.forget()
        self._give_back()

    def _give_back(self) -> None:
        if "mlx.core" in sys.modules:
            from sidecar.engine.memory import give_back

            give_back()

    def _submit(self, path: Path, request: GenerationRequest) -> None:
        runner = self.models.get(path)
        if runner is None:
            from sidecar.engine.rows import Failed

            request.sink([Failed(503, "The model was unloaded; send the request again.")])
            return
        runner.submit(request)

    def _cancel(self, path: Path, request_id: int) -> None:
        runner = self.models.get(path)
        if runner is not None:
            runner.cancel(request_id)

    def _queue_call(self, job: _Embedding) -> None:
        job.id = self._next_call
        self._next_call += 1
        self._calls[job.id] = job

    def _run_call(self, call_id: int) -> None:
        from sidecar.backend import loader

        job = self._calls[call_id]
        if job.future.cancelled():
            del self._calls[call_id]
            return
        try:
            start = len(job.done)
            vectors, tokens = loader.embed_texts(self._embedders[job.path], job.texts[start : start + EMBED_ROWS])
            job.done.extend(vectors)
            job.tokens += tokens
        except Exception as exc:
            del self._calls[call_id]
            _fail(job.future, exc)
            return
        if len(job.done) == len(job.texts):
            del self._calls[call_id]
            _tell(job.future, (job.done, job.tokens))


def _tell(future: Future[T], result: T) -> None:
    """Give who waits a result. Nobody may: a client that left cancelled its future, perhaps in this very moment."""
    with contextlib.suppress(InvalidStateError):
        future.set_result(result)


def _fail(future: Future[T], exc: BaseException) -> None:
    """Tell who waits, if anybody does, of an error."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(exc)


def _settle(future: Future[T], work: Callable[[], T]) -> None:
    """Do ``work``, wanted or not by now, and tell who waits of its result or error."""
    try:
        result = work()
    except Exception as exc:
        log.exception("a command of the engine failed")
        _fail(future, exc)
    else:
        _tell(future, result)
