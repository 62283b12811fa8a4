"""What is told of a request before its first token: to its client while it waits, and in /health of all that wait."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.engine.control import Progress

if TYPE_CHECKING:
    from sidecar.api.answers import Answers
    from sidecar.api.service import Service

FIRST = 1.0
"""Seconds after which a stream that has no token yet says why, in comments."""
SOON = 0.1
"""Seconds after which a stream that asks for progress begins: quick refusals have their own status until then."""
EVERY = 1.0
"""Seconds between two comments at least."""
EVENTS_EVERY = 0.4
"""Seconds between two events at least, where a request asks for them."""


@dataclass
class Load:
    """The load going on, as it was seen: how long it will take comes from the part done so far."""

    name: str | None = None
    began: float = 0.0

    def seen(self, name: str | None, part: float | None, now: float) -> float | None:
        """Note what is being loaded; return the seconds it still takes, None while too little is done."""
        if name != self.name:
            self.name, self.began = name, now
        if name is None or not part or part < 0.05:
            return None
        return round((now - self.began) * (1 - part) / part, 3)


def document(one: Progress) -> dict[str, Any]:
    """Return how far a request is, as clients see it."""
    out: dict[str, Any] = {"stage": one.stage}
    if one.stage == "queued":
        out["ahead"] = one.ahead
    if one.pictures:
        out |= {"picture": one.picture, "pictures": one.pictures}
    if one.stage == "pictures":
        out["part"] = one.part
    if one.stage != "pictures":
        out |= {"tokens_done": one.tokens_done, "tokens": one.tokens}
    return out | {"seconds_left": one.seconds_left}


def loading(service: Service, now: float) -> dict[str, Any] | None:
    """Return how far the load going on is, None without one."""
    name, part = service.residency.loading, service.engine.pulse.load_progress
    left = service.load.seen(name, part, now)
    return None if name is None else {"stage": "loading", "model": name, "part": part or 0.0, "seconds_left": left}


def of_request(service: Service, answers: Answers | None) -> dict[str, Any] | None:
    """Return how far a request is; ``answers`` None: its model isn't there yet. None where nothing is known."""
    if answers is None:
        return loading(service, time.monotonic()) or {"stage": "waiting", "seconds_left": None}
    if answers.prepared is None:
        return {"stage": "preparing", "seconds_left": None}
    number = answers.prepared.id
    found = next((p for p in service.engine.pulse.progress if p.id == number), None)
    return None if found is None else document(found)


def words(told: dict[str, Any]) -> str:
    """Return progress as one line for people."""
    left = told.get("seconds_left")
    end = "" if left is None else f", about {left:.0f} s left" if left >= 1 else ", a moment left"
    stage = told["stage"]
    if stage == "loading":
        return f"loading {told['model']}: {told['part'] * 100:.0f} %{end}".replace("\n", " ")
    if stage == "queued":
        ahead = told["ahead"]
        return f"queued: {ahead} ahead{end}" if ahead else f"queued: next{end}"
    if stage == "pictures":
        return f"looking at picture {told['picture']} of {told['pictures']}{end}"
    if stage == "prompt":
        return f"reading: {told['tokens_done']} of {told['tokens']} tokens{end}"
    return {"waiting": "waiting for the model", "preparing": "making the prompt"}[stage]
