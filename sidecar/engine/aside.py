"""Stepping aside: what is more urgent runs between two blocks of a picture, or two layers of a pass of batch work.

A chat that arrives while batch work alone is computed waits for a few layers, not for the pass. A timeline of a pass of
batch rows that takes 120 ms and is left at every fifth of it:

    0 ms    the pass begins
    30 ms   a chat's prompt arrives
    48 ms   two fifths are through: the prompt is begun and processed, 100 ms, and its first token is sent
    148 ms  the pass goes on. Before its last fifth the chat gets its second token, for else that would come too late
    300 ms  the pass is through; batch rows join the chat's

What the pass holds is hidden meanwhile (``without_batch``): its rows don't move, nothing of it is set aside or taken
out, and who leaves is taken out when it is through.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from sidecar.backend import pausing
from sidecar.backend.loader import LoadedModel
from sidecar.engine.actions import Action, Begin, Decode, Encode, Prefill, View, tier_of
from sidecar.engine.messages import Tier
from sidecar.engine.prompt_stage import PromptStage
from sidecar.engine.scheduler import LEFT_QUANTUM, Policy

SLICE = 0.02
"""Seconds of a pass of batch work after which it can be left."""


class Work(Protocol):
    """What a runner does for whoever steps aside for it."""

    stage: PromptStage
    policy: Policy

    def view(self) -> View:
        """Return what the policy sees."""

    def perform(self, action: Action, view: View) -> None:
        """Carry out one action."""

    def may_begin(self, request_id: int) -> bool:
        """Return whether a request has room without another one making way."""

    def cancel(self, request_id: int) -> None:
        """Drop a request."""


class Aside:
    """Steps aside for one runner's more urgent work. ``poll``: takes in what has arrived."""

    def __init__(self, runner: Work, loaded: LoadedModel, poll: Callable[[], None]) -> None:
        self._runner = runner
        self._poll = poll
        self.paused_for = 0.0  # seconds spent on other work inside units
        self.in_pass = False  # a pass of batch work is being left
        self._cancelled: list[int] = []  # meanwhile
        self._since = 0.0  # when the pass went on last
        self._kept_waiting: float | None = None  # seconds since the last token of a chat that came meanwhile
        runner.stage.blocks = pausing.install_pause(loaded.model, self._between_blocks)
        self._layers = pausing.LayerPauses(loaded.model, self._between_layers)
        if self._layers.count:
            runner.policy.alone = LEFT_QUANTUM

    @contextlib.contextmanager
    def around(self, action: Action, view: View) -> Iterator[None]:
        """Let chats in while the block carries out ``action``, where that is a long unit of batch work alone."""
        long = isinstance(action, Prefill | Decode) and not self.in_pass and not view.rows.get(Tier.INTERACTIVE)
        pauses = 0
        if long and self._layers.count and tier_of(action, view) is Tier.BATCH:
            pauses = int(self._runner.policy.cost(action, view) / SLICE)
        if not pauses:
            yield
            return
        self._since, self._kept_waiting = time.monotonic(), None
        with self._layers.during(pauses):
            yield
        cancelled, self._cancelled = self._cancelled, []
        for request_id in cancelled:
            self._runner.cancel(request_id)

    def settle(self) -> None:
        """Tell the policy how long a chat that came during a pass has waited for its next token by now."""
        if self._kept_waiting is not None:
            self._runner.policy.spent = self._kept_waiting + time.monotonic() - self._since
            self._kept_waiting = None

    def cancels_later(self, request_id: int) -> bool:
        """Note that a request goes when the pass that is being left is through; False where none is."""
        if self.in_pass:
            self._cancelled.append(request_id)
        return self.in_pass

    def _between_layers(self) -> None:
        """Do what chats need before the pass goes on."""
        now = time.monotonic()
        slice_ = now - self._since
        if self._kept_waiting is not None:
            self._kept_waiting += slice_
        self.in_pass = True
        try:
            self._poll()
            while self._urgent(slice_):
                self._poll()
        finally:
            self.in_pass = False
        self._since = time.monotonic()
        self.paused_for += self._since - now

    def _urgent(self, slice_: float) -> bool:
        """Carry out what can't wait for another slice of the pass; return whether there may be more.

        A token of a running chat is the last: the pass gets a slice between two of them, however long one takes.
        """
        runner = self._runner
        view = runner.view()
        action = runner.policy.decide(view)
        if isinstance(action, Begin) and not runner.may_begin(action.id):
            return False
        if isinstance(action, Decode):
            if self._kept_waiting is None or runner.policy.bears(view, self._kept_waiting + slice_):
                return False
        elif not isinstance(action, Begin | Prefill):
            return False
        had = view.rows[Tier.INTERACTIVE]
        runner.stage.disturbances += 1
        runner.perform(action, view)
        if isinstance(action, Decode) or runner.view().rows[Tier.INTERACTIVE] > had:
            self._kept_waiting = 0.0
        return not isinstance(action, Decode)

    def _between_blocks(self) -> None:
        """Between two vision blocks: do what is more urgent, then return to the picture."""
        runner = self._runner
        if not runner.stage.encoding:
            return
        current = runner.stage.encoding[-1]
        now, view = time.monotonic(), runner.view()
        runner.policy.done(Encode(), view, now - current.since)
        runner.policy.costs.learn("encode", 1, now - current.since)
        while True:
            self._poll()
            runner.stage.check_cancelled(current.request)
            view = runner.view()
            action = runner.policy.decide(view)
            if isinstance(action, Encode) or not isinstance(action, (Begin, Prefill, Decode)):
                break
            current.disturbed = True
            runner.perform(action, view)
        after = time.monotonic()
        self.paused_for += after - current.since  # the block itself was accounted for above
        current.since, current.blocks = after, current.blocks + 1
