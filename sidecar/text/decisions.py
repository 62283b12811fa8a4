"""Typed decisions: how probable each of some given answers is, from the scores after one prompt. Nothing is sampled.

An option is a row of tokens, and the options of a question are a tree of them. The probability of every edge out of
the root stands in the scores after the prompt: one pass, which is all that options of one token take. A longer option
has inner nodes; each is one more pass over few tokens, on top of the prompt that is kept (``prefix_cache``).

The events compared are disjoint: "the answer begins with this option, and with no longer one that begins with it". So
where "New" and "New York" are options, the probability of the second is taken from the first.

    "Red", "Blue", "Blue-green" as tokens [5], [7], [7, 2, 9]: the root gives P(5) and P(7), the node [7] gives P(2),
    the node [7, 2] gives P(9). P("Blue") = P(7) - P(7)P(2)P(9).

All is computed with the scores as the model gives them (temperature 1, no penalties), in 64-bit floats from here on.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.config import Settings
from sidecar.engine.messages import Decide, Decided, Refused, Reply, Sampling
from sidecar.engine.pools import started
from sidecar.engine.rows import Event, Failed, GenerationRequest, Prompt, Token
from sidecar.engine.thread import EngineThread
from sidecar.errors import ApiError, bad_request, check_memory
from sidecar.text import plan as planning
from sidecar.text.language import language_of

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel

log = logging.getLogger("sidecar.engine")

WORKERS = 4
"""Decisions made at once; their threads only wait, so that prompts of chats are made meanwhile."""
MOST_NODES = 512
"""Passes that one question may take."""

Node = tuple[int, ...]
Edges = dict[Node, list[int]]


def tree_of(options: Sequence[Node]) -> Edges:
    """Return, by inner node of the options' tree, the tokens that may follow there. The root is ``()``."""
    edges: Edges = {}
    for option in options:
        for at, token in enumerate(option):
            following = edges.setdefault(option[:at], [])
            if token not in following:
                following.append(token)
    return edges


def log_probabilities(options: Sequence[Node], known: dict[Node, dict[int, float]]) -> list[float]:
    """Return each option's log-probability, that of longer options taken from what they begin with. Pure.

    ``known``: by inner node, the log-probability of each token that may follow.
    """
    whole = [sum(known[option[:at]][token] for at, token in enumerate(option)) for option in options]
    out = []
    for option, logp in zip(options, whole, strict=True):
        longer = [o for o in options if len(o) > len(option) and o[: len(option)] == option]
        direct = [o for o in longer if not any(len(p) < len(o) and o[: len(p)] == p for p in longer)]
        taken = sum(math.exp(whole[options.index(o)] - logp) for o in direct) if logp > -math.inf else 0.0
        out.append(logp + math.log1p(-taken) if taken < 1 else -math.inf)
    return out


@dataclass(frozen=True, kw_only=True)
class _Question:
    prompt: Prompt
    options: tuple[Node, ...]
    edges: Edges


class Decisions:
    """Answers ``Decide``. ``models``: the loaded models by path; ``emit`` is called from this object's threads."""

    def __init__(
        self,
        engine: EngineThread,
        settings: Settings,
        emit: Callable[[Reply], None],
        models: dict[str, LoadedModel],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._emit = emit
        self._models = models
        self._live: dict[int, threading.Event] = {}
        self._pool = started(WORKERS, "decision")

    @property
    def busy(self) -> bool:
        """Whether anything is being decided."""
        return bool(self._live)

    def take(self, request: Decide) -> None:
        """Begin with a request; never blocks."""
        self._live[request.id] = threading.Event()
        self._pool.submit(self._guarded, request).add_done_callback(self._looked_after)

    def cancel(self, number: int) -> None:
        """End a request that nobody waits for; unknown ones are ignored."""
        if (gone := self._live.get(number)) is not None:
            gone.set()

    def close(self) -> None:
        """End the threads."""
        for gone in list(self._live.values()):
            gone.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _looked_after(self, done: Future[None]) -> None:
        if not done.cancelled() and (exc := done.exception()) is not None:
            self._engine.died(exc)

    def _guarded(self, request: Decide) -> None:
        gone = self._live[request.id]
        try:
            if not gone.is_set():
                reply = self._decide(request, gone)
                if reply is not None:
                    self._emit(reply)
        except ApiError as exc:
            refused = Refused(
                id=request.id, status=exc.status_code, message=exc.message, code=exc.code, param=exc.param
            )
            self._emit(refused)
        except Exception as exc:
            check_memory(exc)
            log.exception("a decision failed")
            self._emit(Refused(id=request.id, status=500, message=f"This can't be decided ({str(exc)[:200]})."))
        finally:
            self._live.pop(request.id, None)

    def _decide(self, request: Decide, gone: threading.Event) -> Decided | None:
        loaded = self._models.get(request.path)
        if loaded is None:
            raise ApiError(503, "The model was unloaded; send the request again.")
        questions = [self._question(loaded, request, i) for i in range(len(request.questions))]
        known: list[dict[Node, dict[int, float]]] = [{} for _ in questions]
        passes = [(i, node) for i, q in enumerate(questions) for node in q.edges]
        # The first prompt goes alone: what is kept of it serves all others.
        first, rest = passes[:1], passes[1:]
        roots = [p for p in rest if p[1] == ()]
        for wave in (first, roots, [p for p in rest if p[1] != ()]):
            if not self._score(request, loaded, questions, wave, known, gone):
                return None
        return Decided(
            id=request.id,
            scores=tuple(tuple(log_probabilities(q.options, found)) for q, found in zip(questions, known, strict=True)),
            prompt_tokens=tuple(len(q.prompt.tokens) for q in questions),
            passes=len(passes),
        )

    def _question(self, loaded: LoadedModel, request: Decide, place: int) -> _Question:
        asked = request.questions[place]
        prompt = planning.chat_prompt(loaded, asked.conversation, self._settings)
        language = language_of(loaded, asked.conversation.chat_template)
        if language.harmony:
            prompt = _followed(loaded, prompt, "<|channel|>final<|message|>")
        elif prompt.preopens_thinking and language.thinking is not None:
            prompt = _followed(loaded, prompt, f"{language.thinking.end}\n\n")
        planning.token_budget(self._settings, loaded.context, len(prompt.tokens), 1)
        options = tuple(tuple(loaded.tokenizer.encode(o, add_special_tokens=False)) for o in asked.options)
        name = f"questions.{asked.name}"
        if not all(options):
            raise bad_request(f"{name}: an option has no text that this model has tokens for.", param=name)
        if len(set(options)) < len(options):
            raise bad_request(f"{name}: two options are the same to this model.", param=name)
        edges = tree_of(options)
        if len(edges) > MOST_NODES:
            raise bad_request(f"{name}: the options are too many or too long; give shorter ones.", param=name)
        return _Question(prompt=prompt, options=options, edges=edges)

    def _score(
        self,
        request: Decide,
        loaded: LoadedModel,
        questions: Sequence[_Question],
        wave: Sequence[tuple[int, Node]],
        known: list[dict[Node, dict[int, float]]],
        gone: threading.Event,
    ) -> bool:
        """Find the scores of some nodes; False where nobody waits any more. Raises ApiError."""
        path = Path(request.path)
        events: queue.SimpleQueue[tuple[int, Sequence[Event]]] = queue.SimpleQueue()
        open_rows: dict[int, tuple[GenerationRequest, int, Node]] = {}
        for number, (place, node) in enumerate(wave):
            question = questions[place]
            row = GenerationRequest(
                prompt=question.prompt,
                sampling=Sampling(temperature=0.0),
                max_tokens=len(node) + 1,
                tier=request.tier,
                priority=request.priority,
                sink=lambda found, number=number: events.put((number, list(found))),  # type: ignore[misc]
                arrived=time.monotonic(),
                resumed=node,
                scored=tuple(question.edges[node]),
            )
            open_rows[number] = (row, place, node)
            self._engine.submit(path, row)
        try:
            while open_rows:
                try:
                    number, found = events.get(timeout=0.2)
                except queue.Empty:
                    if gone.is_set():
                        return False
                    continue
                for event in found:
                    if isinstance(event, Failed):
                        raise ApiError(event.status, event.message, code=event.code or "decision_failed")
                    if isinstance(event, Token) and number in open_rows:
                        _, place, node = open_rows.pop(number)
                        known[place][node] = dict(event.top)
            return True
        finally:
            for row, _, _ in open_rows.values():
                self._engine.cancel(path, row.id)


def _followed(loaded: LoadedModel, prompt: Prompt, text: str) -> Prompt:
    """Return a prompt with what stands between a thought that is left out and the answer."""
    more = tuple(loaded.tokenizer.encode(text, add_special_tokens=False))
    return replace(prompt, tokens=prompt.tokens + more, preopens_thinking=False)
