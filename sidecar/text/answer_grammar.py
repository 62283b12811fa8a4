"""One grammar for a whole answer: its thought, its words, its calls, and the schema of what it says at the end.

The free parts are lazy: text runs on until the marker that opens a thought's end or a call, and from there on the
structure holds. So a call's name and arguments are valid wherever the model begins one, and it need not begin any.

=================  =============================================================================
nothing asked      no grammar
tools, "auto"      thought? (words call…)* words
tools, forced      thought? call… (one, where one is asked for)
schema             thought? document
tools and schema   thought? (call… | document)
=================  =============================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.text.lark import Lark, sequence, string
from sidecar.text.schemas import json_rule
from sidecar.text.thinking import ThinkingMarkers
from sidecar.text.tool_calls import CallRules, Markup, call_rules

_OPTIONS = '%llguidance {"no_forcing": true}'
"""Where only one text may follow, the model still chooses its tokens: no tokenizer stands behind the vocabulary."""

_SPACE = "/[ \\n]{1,3}/"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What an answer must be like. ``schemas``: prepared, of the tools' arguments by name.

    ``document``: the right side of a rule for all that is said, "" where words are free.

    ``channels``: gpt-oss's, in which also an answer without tools stands.

    ``inside``: the prompt has opened a thought. ``forced``: a call must come; ``one``: only one may.
    """

    thinking: ThinkingMarkers | None = None
    inside: bool = False
    markup: Markup | None = None
    channels: bool = False
    schemas: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    document: str = ""
    forced: bool = False
    one: bool = False

    @property
    def free(self) -> bool:
        """Whether anything may be said, so that no grammar is needed."""
        return not self.document and not self.schemas


def answer_grammar(lark: Lark, shape: Shape) -> str:
    """Return the grammar of an answer. Raises SchemaError for arguments that the markup can't write."""
    lark.rules["TEXT"] = "/(?s:.*)/"
    if shape.channels or (shape.markup is not None and shape.markup.name == "harmony"):
        return _harmony(lark, shape)
    body = _body(lark, shape)
    starts = [body]
    if shape.thinking is not None:
        # After a thought comes space that is nobody's; free text has it anyway.
        strict = shape.forced or bool(shape.document)
        rest = lark.rule("after_thought", f"({_SPACE})? {body}" if strict else body)
        thought = _until(lark, "thought", shape.thinking.end)
        if shape.inside:
            # A thought that never ends is an answer too, where no structure was asked for.
            starts = [sequence(thought, rest)] if strict else [sequence(thought, rest), "TEXT"]
        else:
            starts.append(sequence(_opening(lark, shape.thinking.start), thought, rest))
    return _whole(lark, starts)


def _whole(lark: Lark, starts: list[str]) -> str:
    return f"{_OPTIONS}\nstart: {' | '.join(starts)}\n{lark.text()}\n"


def _until(lark: Lark, name: str, marker: str) -> str:
    """Return what matches any text and the marker at its end, of which nothing is in the text."""
    parts = lark.symbols.parts(marker)
    if isinstance(parts[0], int):
        return f"TEXT {lark.literal(marker)}"
    first = str(parts[0])
    lark.rule(f"{name}[lazy]", f"TEXT {string(first)}")
    return sequence(name, lark.literal(marker[len(first) :]))


def _opening(lark: Lark, marker: str) -> str:
    """Return what matches a marker where free text might begin, too."""
    parts = lark.symbols.parts(marker)
    if isinstance(parts[0], int):
        return lark.literal(marker)
    first = str(parts[0])
    lark.rule("thought_opens[lazy]", string(first))
    return sequence("thought_opens", lark.literal(marker[len(first) :]))


def _body(lark: Lark, shape: Shape) -> str:
    """Return the rule of all that follows the thought."""
    document = lark.rule("document", shape.document) if shape.document else ""
    if shape.markup is None or not shape.schemas:
        return document or "TEXT"
    rules = call_rules(lark, shape.markup, shape.schemas, one=shape.one)
    if not rules.begin:
        calls = rules.group
        words = _no_call(lark, rules)
    else:
        one = sequence(lark.literal(rules.begin), rules.group)
        more = f" ({sequence(lark.literal(rules.between), one)})*" if not shape.one else ""
        calls = lark.rule("calls", one + more)
        lark.rule("spoken_call", sequence(_until(lark, "words", rules.begin), rules.group))
        words = "spoken_call | TEXT" if shape.one else "spoken_call* TEXT"
    if shape.forced:
        return calls
    if document:
        return lark.rule("body", f"{calls} | {document}")
    return lark.rule("body", f"{calls} | {words}" if not rules.begin else words)


def _no_call(lark: Lark, rules: CallRules) -> str:
    """Return free text that is no call: calls stand bare, at the very beginning."""
    heads = "|".join(re.escape(h).replace("/", "\\/").replace("\\ ", " ") for h in rules.heads)
    lark.rules["WORDS"] = f"/(?s:.*)/ & ~/[ \\n]*({heads})(?s:.*)/"
    return "WORDS"


# --- channels ------------------------------------------------------------------------------------------
def _harmony(lark: Lark, shape: Shape) -> str:
    """Return the grammar of gpt-oss's messages; the header of each says what its body is."""
    channel, message = lark.literal("<|channel|>"), lark.literal("<|message|>")
    following = f"{lark.literal('<|end|>')} {lark.literal('<|start|>')} {string('assistant')}"
    thought = lark.rule("thought", sequence(channel, string("analysis"), message, "TEXT", following))
    preamble = lark.rule("preamble", sequence(channel, string("commentary"), message, "TEXT", following))
    said = lark.rule("document", shape.document) if shape.document else "TEXT"
    final = lark.rule("final", sequence(channel, string("final"), message, said))
    calls = []
    constrain = lark.literal("<|constrain|>")
    for i, (name, schema) in enumerate(shape.schemas.items()):
        arguments = lark.rule(f"arguments_{i}", json_rule(schema))
        recipient = string(f"commentary to=functions.{name} ")
        calls.append(
            lark.rule(f"call_{i}", sequence(channel, recipient, constrain, string("json"), message, arguments))
        )
    ends = [*calls] if shape.forced else [final, *calls]
    before = f"({thought} | {preamble})*" if shape.schemas and not (shape.document or shape.forced) else f"{thought}*"
    return _whole(lark, [f"{before} ({' | '.join(ends)})"])
