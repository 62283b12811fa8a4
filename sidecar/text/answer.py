"""An answer's way from tokens to what the client reads: text, reasoning, tool calls. No MLX, no network.

A token becomes text (``Detokenizer``), the text is split into thought, words and calls (``ReasoningSplitter`` and
``ToolReader``, or ``HarmonyReader``), and the words pass the ``StopMatcher``. Each stage holds back only what could
still turn out to be a marker. Calls are structure: stop strings are looked for in words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sidecar.text.delta import Delta
from sidecar.text.detokenizer import Detokenizer
from sidecar.text.repeats import RepeatWatch
from sidecar.text.stops import StopMatcher
from sidecar.text.thinking import ReasoningSplitter
from sidecar.text.tool_calls import ToolReader


class Reader(Protocol):
    """Splits an answer's text."""

    @property
    def thinking(self) -> bool:
        """Whether the text that comes now is reasoning."""

    @property
    def done(self) -> bool:
        """Whether the answer may end."""

    def feed(self, text: str) -> Delta:
        """Return what became clear."""

    def finish(self, *, whole: bool) -> Delta:
        """Return what was held back. ``whole``: the model ended by itself."""


class MarkupReader:
    """A thought at the beginning, then words and calls."""

    def __init__(self, reasoning: ReasoningSplitter, tools: ToolReader | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    @property
    def thinking(self) -> bool:
        """Whether a thought is open."""
        return self._reasoning.thinking

    @property
    def done(self) -> bool:
        """Whether the calls are over."""
        return self._tools is not None and self._tools.done

    def feed(self, text: str) -> Delta:
        """Return what became clear."""
        return self._split(*self._reasoning.feed(text))

    def finish(self, *, whole: bool) -> Delta:
        """Return what was held back."""
        delta = self._split(*self._reasoning.finish())
        if self._tools is not None:
            delta.add(self._tools.finish())
        return delta

    def _split(self, reasoning: str, content: str) -> Delta:
        delta = Delta(reasoning=reasoning)
        if self._tools is None:
            delta.content = content
        else:
            delta.add(self._tools.feed(content))
        return delta


class Answer:
    """One choice being put together from its tokens.

    ``tokens`` counts those whose text is shown: what comes behind a stop string is neither shown nor counted. Stop
    strings and loops within the first ``min_tokens`` end nothing.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        reader: Reader | None = None,
        *,
        stops: Sequence[str] = (),
        repeats: RepeatWatch | None = None,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = detokenizer
        self._reader = reader
        self._stop = StopMatcher(stops)
        self._waiting: list[tuple[int, Any]] = []  # where the content stood when a token came, and its entry
        self._untold: tuple[list[int], Delta] = ([], Delta())
        self.repeats = repeats
        self._least = min_tokens  # of tokens still to come
        self.content = ""
        self.called = False
        self.tokens = 0
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether generation may end: a stop string came, the calls are over, or it goes round in circles."""
        return self._stop.hit is not None or self._done or self.looping

    @property
    def stop(self) -> str | None:
        """The stop string that came, or None."""
        return self._stop.hit

    @property
    def _done(self) -> bool:
        return self._reader is not None and self._reader.done

    @property
    def looping(self) -> bool:
        """Whether the answer only repeats itself."""
        return self.repeats is not None and self.repeats.looping

    def token(self, token: int, entry: Any = None) -> Delta:
        """Take one token. ``entry`` comes back in the delta that shows the first of the token's text."""
        thinking = self._reader is not None and self._reader.thinking
        self.reasoning_tokens += thinking
        self._least -= 1
        if self.repeats is not None and self._least < 0:
            self.repeats.add(token)
        self._waiting.append((self._stop.fed, entry))
        text = self._detokenizer.add(token)
        return self._shown(self._reader.feed(text) if self._reader is not None else Delta(content=text))

    def told(self, tokens: list[int], delta: Delta, *, entries: bool) -> tuple[list[int], Delta]:
        """Return the tokens that came and what they showed, with those kept back before; nothing while they are kept.

        With ``entries`` they are kept while the text of one is held back (half a character, what may become a stop
        string). The next engine is given the tokens that were told and nothing else: it would have no entry for one
        whose text it shows, or show again what was shown with the entry of a token it was not told of.
        """
        self._untold[0].extend(tokens)
        self._untold[1].add(delta)
        if entries and self._waiting:
            return [], Delta()
        out, self._untold = self._untold, ([], Delta())
        return out

    def finish(self, *, whole: bool = False) -> Delta:
        """Return the answer's end: everything held back. ``whole``: the model ended by itself."""
        text = self._detokenizer.finish()
        delta = Delta(content=text)
        if self._reader is not None:
            delta = self._reader.feed(text)
            delta.add(self._reader.finish(whole=whole))
        return self._shown(delta, last=True)

    def finish_reason(self, reason: str) -> str:
        """Return OpenAI's reason for the engine's: what this side ended counts before a limit reached."""
        if self._stop.hit is not None or self._done:
            reason = "stop"
        elif self.looping:
            reason = "length"
        return "tool_calls" if self.called and reason == "stop" else reason

    def _shown(self, delta: Delta, *, last: bool = False) -> Delta:
        delta.content = self._stop.feed(delta.content) if self._least < 0 else self._stop.skip(delta.content)
        if delta.tool_calls or last:
            delta.content += self._stop.finish()  # a stop string does not reach across a call
        partly = self._stop.fed > self._stop.shown or self._detokenizer.pending
        limit = self._stop.shown if self._stop.hit is not None or (partly and not last) else None
        waiting, self._waiting = self._waiting, []
        for at, entry in waiting:
            if limit is None or at < limit:
                delta.tokens.append(entry)
            elif self._stop.hit is None:
                self._waiting.append((at, entry))
        self.tokens += len(delta.tokens)
        self.content += delta.content
        self.called = self.called or bool(delta.tool_calls)
        return delta
