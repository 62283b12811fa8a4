"""Reads tool calls out of an answer's text as it comes, by the structure of their markup.

Where a call's arguments end is told by the arguments themselves (a bracket that closes, a quote that ends), not by the
next thing that looks like an end marker: markers may stand inside arguments. A call is sent once, piece by piece as it
is written. What was cut off stands as far as it came; nothing of the markup becomes content, and nothing is made up.

A block that is no call after all (a model not held by a grammar may write one) goes out as the text it is, unless its
name was sent already.

The reader is a generator that is resumed with every piece of text: it is written as if all the text were there, and
waits inside ``_more``.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from sidecar.text.delta import Delta
from sidecar.text.detokenizer import Symbols
from sidecar.text.schemas.kinds import is_text
from sidecar.text.stops import held_back
from sidecar.text.tool_calls.calls import Calls
from sidecar.text.tool_calls.markup import Arguments, Markup
from sidecar.text.tool_calls.pull import EndError, NoMatchError, Pull, Wait
from sidecar.text.tool_calls.scan import JsonScanner, entry_end, gemma_value, python_value, tagged_value


class ToolReader(Pull):
    """Splits content from calls. ``schemas``: of the arguments, by tool; ``one``: the first call ends the answer."""

    def __init__(
        self,
        markup: Markup,
        schemas: Mapping[str, dict[str, Any]],
        *,
        symbols: Symbols | None = None,
        one: bool = False,
        key: str = "",
    ) -> None:
        super().__init__(symbols)
        encode = symbols.encode if symbols is not None else str
        self._markup = markup
        self._begin, self._head, self._mid, self._tail, self._sep, self._end = map(
            encode, (markup.begin, markup.head, markup.mid, markup.tail, markup.sep or "", markup.end)
        )
        line = "\n" if markup.lines else ""
        self._tags = (encode(markup.key), encode(markup.value), encode(line + markup.done))
        self._quote = encode('<|"|>')
        self._schemas = schemas
        self._names = sorted(schemas, key=len, reverse=True)
        self._calls = Calls(key, one=one)
        self._delta = Delta()
        self._work = self._read()
        next(self._work)

    @property
    def done(self) -> bool:
        """Whether the answer may end: the one call allowed is there, or a call came a second time."""
        return self._calls.done

    @property
    def count(self) -> int:
        """How many calls were found so far."""
        return self._calls.count

    def feed(self, text: str) -> Delta:
        """Return the content and the call deltas that became clear."""
        self._buffer += text
        return self._resumed()

    def finish(self) -> Delta:
        """Return what was held back: content that might have become a marker; no part of a call."""
        self._over = True
        return self._resumed()

    def _resumed(self) -> Delta:
        if not self.done:
            next(self._work, None)
        delta, self._delta = self._delta, Delta()
        return delta

    # --- the reader as a program -----------------------------------------------------------------------
    def _read(self) -> Wait:
        try:
            yield
            if not self._begin:
                yield from self._bare()
                return
            while not self.done:
                yield from self._content()
                yield from self._group()
        except EndError:
            self._calls.cut()

    def _say(self, text: str) -> None:
        if text.strip() or not self.count:  # the space after calls is markup
            self._delta.content += self._plain(text)

    def _content(self) -> Wait:
        """Let content through up to the marker that opens a group of calls."""
        while (at := self._buffer.find(self._begin)) < 0:
            keep = held_back(self._buffer, (self._begin,))
            # Space may turn out to stand before a call, and belongs to its markup then.
            keep = max(keep, len(self._buffer) - len(self._buffer[: len(self._buffer) - keep].rstrip()))
            self._say(self._take(len(self._buffer) - (0 if self._over else keep)))
            yield from self._more()
        before = self._take(at)
        said = before.rstrip()
        self._say(said)
        self._taken = before[len(said) :]
        self._take(len(self._begin))

    def _bare(self) -> Wait:
        """Read an answer that is either nothing but calls or nothing but content."""
        while (fits := self._match(self._head)) is None and not self._over:
            yield
        if fits:
            yield from self._group()
        elif not self._markup.only:  # else it is a call that was cut before its name
            yield from self._plain_rest()

    def _plain_rest(self) -> Wait:
        while True:
            self._say(self._take(len(self._buffer)))
            yield from self._more()

    def _group(self) -> Wait:
        """Read a group of calls; what is none goes out as content."""
        markup = self._markup
        try:
            while True:
                yield from self._call()
                if self.done:
                    return
                if markup.sep is None:
                    break
                if markup.end and (yield from self._followed_by(self._end)):
                    return
                if not markup.end and not markup.sep:
                    return
                yield from self._followed_by(self._sep)
            if markup.end:
                yield from self._literal(self._end)
        except NoMatchError:
            if self._calls.open:
                self._calls.end(self._delta)
            elif not self.count:
                self._say(self._taken)
            self._taken = ""
            if not self._begin:
                yield from self._plain_rest()

    def _call(self) -> Wait:
        yield from self._literal(self._head)
        name = yield from self._name()
        self._calls.begin(name, self._delta)
        kind = self._markup.arguments
        if kind is Arguments.JSON:
            yield from self._json()
        elif kind is Arguments.TAGS:
            yield from self._tagged(name)
        else:
            yield from self._entries(kind)
        self._calls.end(self._delta)
        yield from self._literal(self._tail)

    def _name(self) -> Generator[None, None, str]:
        """Read the name of a tool and what stands between it and the arguments."""
        follows = [self._mid] if self._mid.strip() else [self._tags[0], self._end]
        while True:
            waits = False
            for name in self._names:
                for follow in follows:
                    fits = self._match(name + follow)
                    if fits:
                        self._take(self._match(name + self._mid) or 0)
                        return name
                    waits = waits or fits is None
            if not waits:
                raise NoMatchError
            yield from self._more()

    # --- arguments ---------------------------------------------------------------------------------------
    def _json(self) -> Wait:
        yield from self._space()
        if self._buffer[0] != "{":
            raise NoMatchError
        scanner = JsonScanner()
        while True:
            end = scanner.feed(self._buffer)
            self._calls.arguments(self._plain(self._take(len(self._buffer) if end is None else end)), self._delta)
            if end is not None:
                return
            yield from self._more()

    def _tagged(self, name: str) -> Wait:
        schema = self._schemas[name]
        properties = schema.get("properties")
        key_open, key_close, value_close = self._tags
        count = 0
        while (yield from self._next_key(key_open)):
            key = yield from self._until(key_close)
            self._calls.arguments(("{" if not count else ", ") + _json_text(key) + ": ", self._delta)
            count += 1
            one = properties.get(key) if isinstance(properties, dict) else None
            text, null = is_text(one, schema)
            yield from self._value(value_close, text=text, null=null)
        self._calls.arguments("}" if count else "{}", self._delta)

    def _next_key(self, key_open: str) -> Generator[None, None, bool]:
        close = self._tail or self._end
        while True:
            key, end = self._match(key_open), self._match(close)
            if key:
                self._take(key)
                return True
            if end:
                return False
            if key is not None and end is not None:
                raise NoMatchError
            yield from self._more()

    def _value(self, close: str, *, text: bool, null: bool) -> Wait:
        if not text or null:  # null can't be told from a text before it ends
            value = yield from self._until(close)
            value = value.removeprefix("\n") if self._markup.lines else value
            if text:
                out = "null" if null and value == "null" else _json_text(value)
            else:
                out = _json_text(tagged_value(value.strip()))
            self._calls.arguments(out, self._delta)
            return
        begun = False
        self._calls.arguments('"', self._delta)
        while True:
            if self._markup.lines and not begun:
                while not self._buffer:
                    yield from self._more()
                if self._buffer.startswith("\n"):
                    self._take(1)
                begun = True
            at = self._buffer.find(close)
            keep = held_back(self._buffer, (close,)) if at < 0 else 0
            part = self._take(len(self._buffer) - keep if at < 0 else at)
            self._calls.arguments(_json_text(self._plain(part))[1:-1], self._delta)
            if at >= 0:
                self._take(len(close))
                self._calls.arguments('"', self._delta)
                return
            yield from self._more()

    def _entries(self, kind: Arguments) -> Wait:
        gemma = kind is Arguments.GEMMA
        quotes: Sequence[str] = (self._quote,) if gemma else ('"', "'")
        assign = ":" if gemma else "="
        count = 0
        while True:
            yield from self._space()
            if self._buffer[0] == ",":
                self._take(1)
                continue
            if self._buffer[0] in ")}":
                break
            while (end := entry_end(self._buffer, tuple(quotes), escapes=not gemma)) is None:
                yield from self._more()
            key, sign, value = self._take(end).partition(assign)
            if not sign:
                raise NoMatchError
            try:
                known = gemma_value(value, self._quote) if gemma else python_value(value)
            except (ValueError, RecursionError) as exc:
                raise NoMatchError from exc
            lead = "{" if not count else ", "
            key = key.strip().removeprefix(self._quote).removesuffix(self._quote) if gemma else key.strip()
            self._calls.arguments(f"{lead}{_json_text(key)}: {self._plain(_json_text(known))}", self._delta)
            count += 1
        self._calls.arguments("}" if count else "{}", self._delta)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
