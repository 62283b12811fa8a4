"""What becomes of requests when a pass fails: who is to blame, who is tried again alone, who ends with an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import mlx.core as mx

from sidecar.backend.families import Capabilities
from sidecar.engine.choosing import Row
from sidecar.engine.rows import Done, Failed, GenerationRequest
from sidecar.errors import check_memory

log = logging.getLogger("sidecar.engine")

_NAN = "scores were not numbers (NaN) in company and right alone"


class Recovery:
    """Faults of one model's requests. ``again`` puts a request back into the queue.

    ``ungrouped``: requests whose prompt goes by itself now. Suspected are requests that are tried alone because their
    scores were not numbers in company: if they get a token, being together was at fault, and the record says so.
    """

    def __init__(self, can: Capabilities, *, again: Callable[[GenerationRequest], None]) -> None:
        self._can = can
        self._again = again
        self._suspected: dict[int, str] = {}
        self._blamed: set[str] = set()
        self.ungrouped: set[int] = set()

    def forget(self, request_id: int) -> None:
        """Drop what is remembered of a request that ends."""
        self._suspected.pop(request_id, None)
        self.ungrouped.discard(request_id)

    def fault(self, request: GenerationRequest, exc: Exception) -> None:
        """End a request with the error it caused."""
        check_memory(exc)
        log.error("request %d failed", request.id, exc_info=exc)
        self._end(request, exc)

    def _end(self, request: GenerationRequest, exc: Exception) -> None:
        self.forget(request.id)
        request.sink([Failed(500, f"The model failed on this request: {first_line(exc)}")])

    def group_failed(self, requests: Sequence[GenerationRequest], exc: Exception) -> None:
        """End the request of a prompt that failed alone; try those of a group that failed one by one, from now on."""
        check_memory(exc)
        if len(requests) == 1:
            self.fault(requests[0], exc)
            return
        self._can.rule_out("group", f"prompts processed together failed ({first_line(exc)})")
        log.warning("a group of %d prompts failed; prompts go one by one from now on", len(requests), exc_info=exc)
        for request in requests:
            self.ungrouped.add(request.id)
            self._again(request)

    def suspect(self, what: str, row: Row) -> None:
        """Try a row alone whose scores were not numbers in company: either it is at fault, or the company."""
        log.warning("request %d has NaN scores in a %s; it is tried alone", row.request.id, what)
        self._suspected[row.request.id] = what
        self.requeue(row)

    def runs_alone(self, request_id: int) -> None:
        """Note that a request got a token; if it was suspected, the company was to blame."""
        what = self._suspected.pop(request_id, None)
        if what is not None:
            self._blamed.add(what)

    def settle_blame(self) -> set[str]:
        """Write down what has proved wrong since the last call, and return what of it is news."""
        news = {what for what in self._blamed if self._can.rule_out(what, _NAN)}
        self._blamed.clear()
        for what in news:
            log.warning("%s of this model: %s; one at a time from now on", what, _NAN)
        return news

    def requeue(self, row: Row) -> None:
        """Put a row back into the queue with the tokens it has; it goes on at the next one, alone."""
        request = row.request
        request.retries += 1
        request.resumed = tuple(row.answer)
        self.ungrouped.add(request.id)
        self._again(request)

    def set_aside(self, rows: Sequence[Row]) -> None:
        """Put rows back into the queue for want of memory."""
        for row in rows:
            log.info("request %d is set aside: memory is short", row.request.id)
            row.request.resumed = tuple(row.answer)
            self._again(row.request)

    def full(self, rows: Sequence[Row], *, company: bool) -> None:
        """End rows that fill the memory by themselves, as at the end of a context; in company they wait."""
        if company:
            self.set_aside(rows)
            return
        for row in rows:
            log.warning("request %d ends early: with %d tokens it fills the memory", row.request.id, len(row.answer))
            self.forget(row.request.id)
            row.request.sink([Done("length")])

    def put_back(self, requests: Sequence[GenerationRequest]) -> None:
        """Put prompts back into the queue for want of memory."""
        for request in requests:
            log.info("the prompt of request %d is put back: memory is short", request.id)
            self._again(request)

    def resume(self, rows: Sequence[Row], exc: Exception) -> None:
        """Put the rows of a pass that failed back into the queue; one that failed alone twice ends with the error."""
        check_memory(exc)
        log.error("a decode pass failed; its %d rows go on alone", len(rows), exc_info=exc)
        mx.clear_cache()
        if len(rows) > 1:
            self._can.rule_out("batch", f"rows decoded together failed ({first_line(exc)})")
        for row in rows:
            if row.fault is not None or row.request.retries > 1 or (len(rows) == 1 and row.request.retries):
                self._end(row.request, exc)
            else:
                self.requeue(row)

    def mix_failed(self, rows: Sequence[Row], requests: Sequence[GenerationRequest], exc: Exception) -> None:
        """Put all of a pass that rows and prompts shared back into the queue; there are no more such passes."""
        log.error("a pass of %d rows and %d prompts failed", len(rows), len(requests), exc_info=exc)
        mx.clear_cache()
        self._can.rule_out("mix", f"rows and prompts in one pass failed ({first_line(exc)})")
        for request in requests:
            self.ungrouped.add(request.id)
            self._again(request)
        for row in rows:
            self.requeue(row)


def first_line(exc: Exception) -> str:
    """Return what an error says, in a line."""
    text = str(exc).strip()
    return (text.splitlines()[0] if text else type(exc).__name__)[:300]
