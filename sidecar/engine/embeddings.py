"""Embedding requests and prompts to score, worked off a piece at a time so that a chat beside them waits little."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.engine import memory
from sidecar.engine.actions import Unit
from sidecar.engine.commands import fail, tell
from sidecar.engine.messages import Tier
from sidecar.engine.scoring import ScoreJob
from sidecar.errors import check_memory

if TYPE_CHECKING:
    from sidecar.backend.loader import LoadedModel

ROWS = 8  # texts of one unit

Vectors = tuple[list[list[float]], int]
"""Vectors of texts, and the tokens the texts had together."""


@dataclass(eq=False, kw_only=True)
class EmbeddingJob:
    """One request."""

    path: Path
    texts: list[str | dict[str, Any]]  # arrays of a picture among them
    query: str = ""
    tier: Tier
    future: Future[Vectors]
    arrived: float = field(default_factory=time.monotonic)
    done: list[list[float]] = field(default_factory=list)
    tokens: int = 0

    def fail(self, exc: Exception) -> None:
        """Give an error to who waits."""
        fail(self.future, exc)


class Passes:
    """How many texts are computed at once: what a pass holds grows with its tokens, and ``free`` bytes must hold it.

    Measured for each model at the longest pass; until there was one, guessed from the configuration.
    """

    def __init__(self, free: Callable[[], int] | None = None) -> None:
        self._free = free or memory.scratch
        self._longest: dict[Path, tuple[int, float]] = {}  # tokens of the longest pass, and its bytes for each

    def rows(self, model: LoadedModel, texts: Sequence[str], query: str = "") -> int:
        """Return how many of ``texts``, from the first, may be computed at once; one at least."""
        a_token = self._longest.get(model.path, (0, memory.pass_bytes_per_token(model.config)))[1]
        most = (self._free() - memory.RESERVE // 4) / a_token  # tokens
        if len(texts) * (model.context or 512) <= most:
            return len(texts)
        longest = 0
        for rows, tokens in enumerate(_lengths(model, texts, query)):
            longest = max(longest, tokens)
            if rows and (rows + 1) * longest > most:
                return rows
        return len(texts)

    def learn(self, model: LoadedModel, tokens: int, size: int) -> None:
        """Learn that a pass over so many tokens, padding counted, held ``size`` bytes."""
        if tokens > self._longest.get(model.path, (0, 0.0))[0]:
            self._longest[model.path] = (tokens, max(1.0, size / tokens))


def _lengths(model: LoadedModel, texts: Sequence[str], query: str) -> list[int]:
    pairs = ([query] * len(texts), list(texts)) if model.ranks else (list(texts),)
    return [len(ids) for ids in model.tokenizer(*pairs)["input_ids"]]


class EmbeddingQueue:
    """Jobs in progress and the models for them. On the engine's thread."""

    def __init__(self) -> None:
        self.passes = Passes()
        self.models: dict[Path, LoadedModel] = {}
        self._jobs: dict[int, EmbeddingJob | ScoreJob] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: EmbeddingJob | ScoreJob) -> None:
        """Queue a job."""
        self._jobs[self._next] = job
        self._next += 1

    def units(self) -> tuple[Unit, ...]:
        """Return what the policy may choose from; jobs whose client left are dropped.

        Of prompts to score there is one for each tier, the one begun or the oldest: each has a whole cache.
        """
        for number in [n for n, job in self._jobs.items() if job.future.cancelled()]:
            del self._jobs[number]
        waiting = set[int]()
        for tier in Tier:
            scoring = {n: job for n, job in self._jobs.items() if isinstance(job, ScoreJob) and job.tier is tier}
            if scoring:
                waiting |= scoring.keys() - {min(scoring, key=lambda n: (not scoring[n].started, n))}
        jobs = ((n, job) for n, job in self._jobs.items() if n not in waiting)
        return tuple(Unit(id=n, tier=job.tier, arrived=job.arrived) for n, job in jobs)

    def run(self, number: int) -> None:
        """Compute one unit of a job."""
        job = self._jobs[number]
        try:
            over = self._scored(job) if isinstance(job, ScoreJob) else self._embedded(job)
        except Exception as exc:
            check_memory(exc)
            del self._jobs[number]
            job.fail(exc)
            return
        if over:
            del self._jobs[number]

    def _scored(self, job: ScoreJob) -> bool:
        scores = job.step()
        if scores is not None:
            tell(job.future, scores)
        return scores is not None

    def _embedded(self, job: EmbeddingJob) -> bool:
        self._step(job)
        over = len(job.done) == len(job.texts)
        if over:
            tell(job.future, (job.done, job.tokens))
        return over

    def _step(self, job: EmbeddingJob) -> None:
        from sidecar.backend import loader

        model = self.models.get(job.path)
        if model is None:
            raise RuntimeError("the model was unloaded; send the request again")
        start = len(job.done)
        given = itertools.takewhile(lambda one: isinstance(one, str), job.texts[start : start + ROWS])
        texts = [str(one) for one in given]
        if texts:
            texts = texts[: self.passes.rows(model, texts, job.query)]
            memory.begin_peak()
            vectors, tokens, longest = loader.embed_texts(model, texts, job.query)
            self.passes.learn(model, len(texts) * longest, memory.over_now())
        else:
            picture = job.texts[start]
            assert isinstance(picture, dict)
            vectors, tokens = loader.embed_picture(model, picture)
        job.done.extend(vectors)
        job.tokens += tokens


def first(units: Sequence[Unit]) -> Unit:
    """Return the unit to work on where nothing else is to do: the most urgent, then the oldest."""
    return min(units, key=lambda u: (u.tier, u.arrived))
