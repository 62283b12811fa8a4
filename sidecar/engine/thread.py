"""The engine: one thread that alone owns MLX, and the commands other threads give it.

MLX is imported on that thread, at the first model. If the thread dies, ``on_death`` is called: a server
without an engine must not go on listening.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config import Settings
from sidecar.engine import imports
from sidecar.engine.actions import Call, Idle, View, has_work, without_batch
from sidecar.engine.commands import Commands, fail, settle, tell
from sidecar.engine.control import Progress
from sidecar.engine.embeddings import EmbeddingJob, EmbeddingQueue, Vectors, first
from sidecar.engine.memory import look
from sidecar.engine.messages import Tier
from sidecar.engine.metrics import Meter
from sidecar.engine.progress import EVERY, Watch
from sidecar.engine.rows import Failed, GenerationRequest, Token
from sidecar.engine.scoring import ScoreJob
from sidecar.engine.turns import Turns
from sidecar.engine.units import UnitLog

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel
    from sidecar.engine.kept import Kept
    from sidecar.engine.runner import ModelRunner

log = logging.getLogger("sidecar.engine")


class EngineThread:
    """Starts its thread at the first command."""

    def __init__(self, settings: Settings, meter: Meter, *, on_death: Callable[[BaseException], None]) -> None:
        self._settings = settings
        self._meter = meter
        self._on_death = on_death
        self._commands = Commands()
        self._units = UnitLog(settings.unit_log)
        self._thread: threading.Thread | None = None
        self._start = threading.Lock()
        self.models: dict[Path, ModelRunner] = {}
        self._embeddings = EmbeddingQueue()
        self._turns: Turns[Path] = Turns(share=settings.batch_share)
        self._stopping = False
        self._loading = False
        self._working = False  # inside a piece of work
        self._loaded_at = 0.0  # when the load now running last let others work
        self._beat: float | None = None  # when the work now running began
        self.load_progress: float | None = None
        self.progress: tuple[Progress, ...] = ()
        self._watches: dict[Path, Watch] = {}
        self._looked = 0.0
        self._held = False  # batch work waits
        self._kept: Kept | None = None

    # --- from any thread -----------------------------------------------------------------------------
    def load(self, path: Path) -> Future[LoadedModel]:
        """Load a model folder; the future raises ``loader.LoadError``."""
        future: Future[LoadedModel] = Future()
        self._put(lambda: self._load_stepwise(path, future), heavy=True)
        return future

    def warm(self) -> None:
        """Import what every model needs."""
        self._put(lambda: imports.warm(self._alive))

    def unload(self, path: Path) -> Future[None]:
        """Let a model's memory go; what still uses it ends with an error."""
        future: Future[None] = Future()
        self._put(lambda: settle(future, lambda: self._unload(path)), heavy=True)
        return future

    def submit(self, path: Path, request: GenerationRequest) -> None:
        """Queue a request for the model loaded from ``path``."""
        self._put(lambda: self._submit(path, request))

    def cancel(self, path: Path, request_id: int) -> None:
        """Drop a request of the model loaded from ``path``; unknown ones are ignored."""
        self._put(lambda: self._cancel(path, request_id))

    def embed(self, path: Path, texts: Sequence[str | dict[str, Any]], tier: Tier, query: str = "") -> Future[Vectors]:
        """Vectors and token count of ``texts`` by the embedding model loaded from ``path``."""
        job = EmbeddingJob(path=path, texts=list(texts), query=query, tier=tier, future=Future())
        self._put(lambda: self._embeddings.add(job))
        return job.future

    def score(self, path: Path, tokens: Sequence[int], top: int, tier: Tier) -> Future[list[Token]]:
        """Return the log-probabilities of a prompt's tokens, and of the ``top`` likeliest at each place."""
        future: Future[list[Token]] = Future()

        def queue() -> None:
            runner = self.models.get(path)
            if runner is None:
                fail(future, RuntimeError("the model was unloaded; send the request again"))
                return
            room, count = runner.room, len(tokens)
            admit = lambda: room.scored(count, runner.batches.held, runner.stage.held)  # noqa: E731
            job = ScoreJob(model=runner.loaded, tokens=tokens, top=top, admit=admit, tier=tier, future=future)
            self._embeddings.add(job)

        self._put(queue)
        return future

    def shed(self) -> Future[None]:
        """Give up what only saves time: kept prefixes, image features, MLX's freed buffers."""
        future: Future[None] = Future()
        self._put(lambda: settle(future, self._shed), heavy=True)
        return future

    def hold(self, batch: bool) -> None:
        """Let batch work wait from now on, or go on."""
        self._put(lambda: setattr(self, "_held", batch))

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread; running requests end with an error."""
        thread = self._thread
        if thread is not None:
            self._stopping = True
            self._commands.put_stop()
            thread.join(timeout)

    def died(self, exc: BaseException) -> None:
        """Say that this engine can't go on. From any thread."""
        log.critical("the engine can't go on", exc_info=exc)
        self._on_death(exc)

    def stalled_for(self) -> float:
        """Seconds the piece of work now running has taken; 0 when idle."""
        beat = self._beat
        return 0.0 if beat is None else time.monotonic() - beat

    def _put(self, command: Callable[[], None], *, heavy: bool = False) -> None:
        self._commands.put(command, heavy=heavy)
        with self._start:
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
                self._thread.start()

    # --- on the engine's thread ----------------------------------------------------------------------
    def _main(self) -> None:
        try:
            while not self._stopping:
                if idle := not self._busy():
                    self._save()
                self._poll(block=idle)
                if not self._stopping and self._busy():
                    self._beat = time.monotonic()
                    look(self._beat)
                    self._work()
            for runner in self.models.values():
                runner.fail_all(503, "The server stopped before this answer was finished.")
            self._units.close()
            if self._kept is not None:
                self._kept.close()
        except BaseException as exc:
            self.died(exc)

    def _save(self) -> None:
        """Bring a piece of what chats left to the disk. When it is there, the engine looks for the next."""
        self._beat = time.monotonic()
        any(runner.save(lambda: self._put(lambda: None)) for runner in self.models.values())

    def _alive(self) -> None:
        """Begin another step of the work now running: a hang is noticed from here on."""
        self._beat = time.monotonic()

    def _load_stepwise(self, path: Path, future: Future[LoadedModel]) -> None:
        with imports.stepwise(self._alive):
            self._load(path, future)

    def _busy(self) -> bool:
        if self._held:  # then only what is not batch work counts
            views = [without_batch(runner.view()) for runner in self.models.values() if runner.busy]
            calls = [u for u in self._embeddings.units() if u.tier is not Tier.BATCH]
            return bool(calls) or any(has_work(view, Tier.INTERACTIVE) or view.encoding for view in views)
        return bool(len(self._embeddings)) or any(runner.busy for runner in self.models.values())

    def _poll(self, *, block: bool = False) -> None:
        """Carry out the commands that came; with ``block`` wait for one."""
        self._beat = None if block else time.monotonic()
        if block:
            self.progress = ()
        if self._commands.carry_out(block=block, nested=self._working or self._loading):
            self._stopping = True
        self._beat = time.monotonic()
        self._look(self._beat)

    def _look(self, now: float) -> None:
        """Note how far the requests are that have no token yet, a few times a second."""
        if now - self._looked < EVERY:
            return
        self._looked = now
        self._watches = {path: self._watches.get(path) or Watch() for path in self.models}
        self.progress = tuple(p for path, r in self.models.items() for p in self._watches[path].look(r, now))

    def _work(self) -> None:
        self._working = True
        try:
            self._step()
        finally:
            self._working = False

    def _step(self) -> None:
        """Let the model whose turn it is do what its policy says; another where it has nothing it could do now."""
        units = self._embeddings.units()
        views = {path: runner.view() for path, runner in self.models.items() if runner.busy}
        if self._held:
            units = tuple(u for u in units if u.tier is not Tier.BATCH)
            views = {path: without_batch(view) for path, view in views.items()}
        while views:
            path = self._turns.choose({p: urgency(v) for p, v in views.items()})
            view = views.pop(path)
            start = time.monotonic()
            if self._step_model(self.models[path], replace(view, calls=units)):
                self._turns.spent(path, urgency(view), time.monotonic() - start)
                return
        if units:
            self._embeddings.run(first(units).id)
        else:
            time.sleep(0.005)  # what waits has no room yet

    def _step_model(self, runner: ModelRunner, view: View) -> bool:
        """Carry out one action of a model's policy; False where there was none."""
        action = runner.policy.decide(view)
        if isinstance(action, Call):
            start = time.monotonic()
            self._embeddings.run(action.id)
            seconds = time.monotonic() - start
            runner.policy.done(action, view, seconds)
            runner.policy.costs.learn("call", 1, seconds)
        elif isinstance(action, Idle):
            return False
        else:
            runner.perform(action, view)
        return True

    def _load(self, path: Path, future: Future[LoadedModel]) -> None:
        if future.cancelled():
            return
        self._loading, self.load_progress = True, 0.0
        self._loaded_at = self._beat = time.monotonic()
        try:
            from sidecar.backend import loader
            from sidecar.engine import kept
            from sidecar.engine.memory import set_limits
            from sidecar.engine.runners import runner_of

            set_limits()
            loaded = loader.load(path, self._progress, remember=self._settings.data_dir / "checked-models.json")
            if loaded.kind == "chat":
                self._kept = self._kept or kept.opened(self._settings)
                self.models[path] = runner_of(
                    loaded, self._settings, meter=self._meter, poll=self._poll, units=self._units, kept=self._kept
                )
                self.models[path].batch_rests = lambda: self._held
                self.models[path].company = lambda: any(len(r.batches) for p, r in self.models.items() if p != path)
            else:
                self._embeddings.models[path] = loaded
        except Exception as exc:
            fail(future, exc)
        else:
            tell(future, loaded)
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

    def _unload(self, path: Path) -> None:
        runner = self.models.pop(path, None)
        if runner is not None:
            runner.fail_all(503, "The model was unloaded.")
            runner.forget()
        self._embeddings.models.pop(path, None)
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
            request.sink([Failed(503, "The model was unloaded; send the request again.")])
            return
        runner.submit(request)

    def _cancel(self, path: Path, request_id: int) -> None:
        runner = self.models.get(path)
        if runner is not None:
            runner.cancel(request_id)


def urgency(view: View) -> Tier:
    """Return the most urgent tier that a model has work of."""
    tiers = [t for t, count in view.rows.items() if count]
    tiers += [w.tier for w in view.waiting] + [p.tier for p in view.prefilling] + list(view.encoding)
    return min(tiers, default=Tier.BATCH)
