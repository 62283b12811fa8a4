"""Embedding requests, worked off a few texts at a time so that a chat beside them waits little."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.engine.actions import Unit
from sidecar.engine.commands import fail, tell
from sidecar.engine.messages import Tier
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
    texts: list[str]
    tier: Tier
    future: Future[Vectors]
    arrived: float = field(default_factory=time.monotonic)
    done: list[list[float]] = field(default_factory=list)
    tokens: int = 0


class EmbeddingQueue:
    """Jobs in progress and the models for them. On the engine's thread."""

    def __init__(self) -> None:
        self.models: dict[Path, LoadedModel] = {}
        self._jobs: dict[int, EmbeddingJob] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: EmbeddingJob) -> None:
        """Queue a job."""
        self._jobs[self._next] = job
        self._next += 1

    def units(self) -> tuple[Unit, ...]:
        """Return what the policy may choose from; jobs whose client left are dropped."""
        for number in [n for n, job in self._jobs.items() if job.future.cancelled()]:
            del self._jobs[number]
        return tuple(Unit(id=n, tier=job.tier, arrived=job.arrived) for n, job in self._jobs.items())

    def run(self, number: int) -> None:
        """Compute one unit of a job."""
        job = self._jobs[number]
        try:
            self._step(job)
        except Exception as exc:
            check_memory(exc)
            del self._jobs[number]
            fail(job.future, exc)
            return
        if len(job.done) == len(job.texts):
            del self._jobs[number]
            tell(job.future, (job.done, job.tokens))

    def _step(self, job: EmbeddingJob) -> None:
        from sidecar.backend import loader

        model = self.models.get(job.path)
        if model is None:
            raise RuntimeError("the model was unloaded; send the request again")
        start = len(job.done)
        vectors, tokens = loader.embed_texts(model, job.texts[start : start + ROWS])
        job.done.extend(vectors)
        job.tokens += tokens


def first(units: Sequence[Unit]) -> Unit:
    """Return the unit to work on where nothing else is to do: the most urgent, then the oldest."""
    return min(units, key=lambda u: (u.tier, u.arrived))
