"""Embedding requests and prompts to score, worked off a piece at a time so that a chat beside them waits little."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class EmbeddingQueue:
    """Jobs in progress and the models for them. On the engine's thread."""

    def __init__(self) -> None:
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
        texts = list(itertools.takewhile(lambda one: isinstance(one, str), job.texts[start : start + ROWS]))
        if texts:
            vectors, tokens = loader.embed_texts(model, [str(one) for one in texts], job.query)
        else:
            picture = job.texts[start]
            assert isinstance(picture, dict)
            vectors, tokens = loader.embed_picture(model, picture)
        job.done.extend(vectors)
        job.tokens += tokens


def first(units: Sequence[Unit]) -> Unit:
    """Return the unit to work on where nothing else is to do: the most urgent, then the oldest."""
    return min(units, key=lambda u: (u.tier, u.arrived))
