"""Calls in every family's markup: found in its template, taken and written by its grammar, read from its text."""

from __future__ import annotations

import json
import random
from typing import Any

import jinja2
import jsonschema
import pytest

from sidecar.text.answer_grammar import Shape, answer_grammar
from sidecar.text.delta import Delta
from sidecar.text.detokenizer import Detokenizer, Symbols, Vocabulary
from sidecar.text.harmony import HarmonyReader
from sidecar.text.lark import Lark
from sidecar.text.schemas import arguments_schema, json_rule
from sidecar.text.thinking import THINK
from sidecar.text.tool_calls import BARE, HERMES, Markup, ToolReader, markup_of
from tests.support.grammars import ByteTokenizer, constraint, pieces, spelled, takes, vocabulary, written

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 0, "maximum": 99},
            "options": {
                "type": "object",
                "properties": {
                    "wind": {"type": "boolean"},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
                },
                "required": ["wind"],
            },
        },
        "required": ["city"],
    },
    "get": {"type": "object", "properties": {}},
    "note": {
        "type": "object",
        "properties": {
            "unit": {"type": "string", "enum": ["c", "f"]},
            "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["unit", "text"],
    },
}
SCHEMAS = {name: arguments_schema(schema, strict=False).schema for name, schema in TOOLS.items()}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("get_weather", {"city": "Zürich 'old' <b>", "days": 3, "options": {"wind": True, "tags": ["a,b", "}"]}}),
    ("note", {"unit": "f", "text": "it's </tool_call> or <|call|>"}),
    ("get", {}),
]

# How a family's template writes an assistant's calls, ``calls`` being (name, arguments), and its control tokens.
JSON_ITEM = '{"name": "{{ n }}", "arguments": {{ a | json }}}'
TEMPLATES: dict[str, tuple[str, list[str]]] = {
    "hermes": (
        "{% for n, a in calls %}<tool_call>\n" + JSON_ITEM + "\n</tool_call>{{ '\n' if not loop.last }}{% endfor %}",
        [],
    ),
    "qwen3-coder": (
        "{% for n, a in calls %}<tool_call>\n<function={{ n }}>\n{% for k, v in a.items() %}<parameter={{ k }}>\n"
        "{{ v if v is string else v | json }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
        "{{ '\n' if not loop.last }}{% endfor %}",
        [],
    ),
    "seed-oss": (
        "{% for n, a in calls %}<seed:tool_call>\n<function={{ n }}>\n{% for k, v in a.items() %}<parameter={{ k }}>"
        "{{ v if v is string else v | json }}</parameter>\n{% endfor %}</function>\n</seed:tool_call>"
        "{{ '\n' if not loop.last }}{% endfor %}",
        ["<seed:tool_call>", "</seed:tool_call>"],
    ),
    "glm4.5": (
        "{% for n, a in calls %}<tool_call>{{ n }}\n{% for k, v in a.items() %}<arg_key>{{ k }}</arg_key>\n<arg_value>"
        "{{ v if v is string else v | json }}</arg_value>\n{% endfor %}</tool_call>"
        "{{ '\n' if not loop.last }}{% endfor %}",
        [],
    ),
    "glm4.7": (
        "{% for n, a in calls %}<tool_call>{{ n }}{% for k, v in a.items() %}<arg_key>{{ k }}</arg_key><arg_value>"
        "{{ v if v is string else v | json }}</arg_value>{% endfor %}</tool_call>{% endfor %}",
        [],
    ),
    "minimax-m2": (
        '<minimax:tool_call>\n{% for n, a in calls %}<invoke name="{{ n }}">\n{% for k, v in a.items() %}'
        '<parameter name="{{ k }}">{{ v if v is string else v | json }}</parameter>\n{% endfor %}</invoke>\n'
        "{% endfor %}</minimax:tool_call>",
        [],
    ),
    "llama3": (
        '{# <|python_tag|> #}{% for n, a in calls %}{"name": "{{ n }}", "parameters": {{ a | json }}}'
        "{{ '; ' if not loop.last }}{% endfor %}",
        ["<|python_tag|>"],
    ),
    "mistral": (
        "[TOOL_CALLS] [{% for n, a in calls %}" + JSON_ITEM + "{{ ', ' if not loop.last }}{% endfor %}]",
        ["[TOOL_CALLS]"],
    ),
    "mistral-v11": (
        "{% for n, a in calls %}[TOOL_CALLS]{{ n }}[ARGS]{{ a | json }}{% endfor %}",
        ["[TOOL_CALLS]", "[ARGS]"],
    ),
    "gemma4": (
        "{% macro put(v) %}{% if v is string %}<|\"|>{{ v }}<|\"|>{% elif v is mapping %}{{ '{' }}"
        "{% for k, w in v.items() %}"
        "{{ k }}:{{ put(w) }}{{ ',' if not loop.last }}{% endfor %}{{ '}' }}{% elif v is boolean or v is number %}"
        "{{ v | json }}{% else %}[{% for w in v %}{{ put(w) }}{{ ',' if not loop.last }}{% endfor %}]{% endif %}"
        "{% endmacro %}"
        "{% for n, a in calls %}<|tool_call>call:{{ n }}{{ put(a) }}<tool_call|>{% endfor %}",
        ["<|tool_call>", "<tool_call|>", '<|"|>'],
    ),
    "pythonic": (
        "<|tool_call_start|>[{% for n, a in calls %}{{ n }}({% for k, v in a.items() %}{{ k }}={{ v | json }}"
        "{{ ', ' if not loop.last }}{% endfor %}){{ ', ' if not loop.last }}{% endfor %}]<|tool_call_end|>",
        ["<|tool_call_start|>", "<|tool_call_end|>"],
    ),
    "deepseek-v3": (
        "<｜tool▁calls▁begin｜>{% for n, a in calls %}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ n }}\n```json\n"
        "{{ a | json }}\n```<｜tool▁call▁end｜>{{ '\n' if not loop.last }}{% endfor %}<｜tool▁calls▁end｜>",
        [f"<｜tool▁{w}｜>" for w in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")],
    ),
    "deepseek-v3.1": (
        "<｜tool▁calls▁begin｜>{% for n, a in calls %}<｜tool▁call▁begin｜>{{ n }}<｜tool▁sep｜>{{ a | json }}"
        "<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>",
        [f"<｜tool▁{w}｜>" for w in ("calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end")],
    ),
    "kimi-k2": (
        "<|tool_calls_section_begin|>{% for n, a in calls %}<|tool_call_begin|>functions.{{ n }}:0"
        "<|tool_call_argument_begin|>{{ a | json }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>",
        [
            f"<|tool_{w}|>"
            for w in ("calls_section_begin", "call_begin", "call_argument_begin", "call_end", "calls_section_end")
        ],
    ),
    "harmony": (
        "{% for n, a in calls[:1] %}<|channel|>commentary to=functions.{{ n }} <|constrain|>json<|message|>"
        "{{ a | json }}"
        "{% endfor %}",
        [f"<|{w}|>" for w in ("channel", "message", "end", "start", "call", "return", "constrain")],
    ),
}


def _rendered(template: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    environment = jinja2.Environment(autoescape=False)
    environment.filters["json"] = lambda v: json.dumps(v, ensure_ascii=False)
    return environment.from_string(template).render(calls=calls)


def _grammar(words: Vocabulary, **shape: Any) -> str:
    return answer_grammar(Lark(Symbols(words)), Shape(schemas=SCHEMAS, **shape))


class _Read:
    """What a reader makes of tokens: content, reasoning and calls."""

    def __init__(self, markup: Markup, words: Vocabulary, *, one: bool = False) -> None:
        symbols = Symbols(words)
        self.reader: ToolReader | HarmonyReader
        if markup.name == "harmony":
            self.reader = HarmonyReader(SCHEMAS, symbols=symbols, one=one)
        else:
            self.reader = ToolReader(markup, SCHEMAS, symbols=symbols, one=one)
        self._detokenizer = Detokenizer(words, symbols=symbols)
        self.content = self.reasoning = ""
        self.calls: list[list[str]] = []
        self.ids: list[str] = []

    def take(self, delta: Delta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        for call in delta.tool_calls:
            if call["index"] == len(self.calls):
                self.calls.append([call["function"]["name"], ""])
                self.ids.append(call["id"])
            self.calls[call["index"]][1] += call["function"].get("arguments", "")

    def tokens(self, tokens: list[int], *, end: bool = True) -> _Read:
        for token in tokens:
            self.take(self.reader.feed(self._detokenizer.add(token)))
        if end:
            self.take(self.reader.feed(self._detokenizer.finish()))
            self.take(self.reader.finish())
        return self

    def parsed(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(text)) for name, text in self.calls]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_familys_own_calls_are_taken_and_read(name: str) -> None:
    template, control = TEMPLATES[name]
    markup = markup_of(template)
    assert markup.name == name
    calls = CALLS[:1] if name == "harmony" else CALLS
    text = _rendered(template, calls)
    for tokens in (control, []):
        if name == "harmony" and not tokens:
            continue
        if name == "llama3" and not tokens:
            tokens = ["<|python_tag|>"]
        words = vocabulary(*tokens)
        assert takes(words, _grammar(words, markup=markup, forced=True), text), text
        assert takes(words, _grammar(words, markup=markup), text)
        read = _Read(markup, words).tokens(ByteTokenizer(tuple(tokens)).encode(text))
        assert read.parsed() == calls
        assert read.content == ""
        assert len(set(read.ids)) == len(calls)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_grammar_lets_be_written_is_a_valid_call(name: str) -> None:
    template, control = TEMPLATES[name]
    markup, words = markup_of(template), vocabulary(*control)
    valid = 0
    for one in (False, True):
        state = constraint(words, _grammar(words, markup=markup, forced=True, one=one))
        for seed in range(8):
            closers = [f"\n{markup.done}", markup.done] if markup.done else []
            tokens, ended = written(words, state.copy(), seed=seed, limit=600, closers=closers)
            read = _Read(markup, words).tokens(tokens)
            assert read.content == "", spelled(words, tokens)
            for i, (called, text) in enumerate(read.calls):
                if ended or i < len(read.calls) - 1:
                    jsonschema.validate(json.loads(text), TOOLS[called])
                    valid += 1
            assert not (ended and one) or len(read.calls) == 1
    assert valid


@pytest.mark.parametrize("name", [n for n in TEMPLATES if n not in ("harmony", "llama3")])
def test_words_before_a_call_are_content_and_a_cut_call_leaks_nothing(name: str) -> None:
    template, control = TEMPLATES[name]
    markup, words = markup_of(template), vocabulary(*control)
    call = ByteTokenizer(tuple(control)).encode(_rendered(template, CALLS[:1]))
    told = list(b"Let me see.\n\n")
    for cut in range(0, len(call), 3):
        read = _Read(markup, words).tokens(told + call[:cut])
        if any(token >= 256 for token in call[:cut]) or cut > len(markup.begin.encode()):
            assert read.content == "Let me see."
        assert len(read.calls) <= 1
        for called, text in read.calls:
            assert called == "get_weather"
            assert json.dumps(CALLS[0][1], ensure_ascii=False).startswith(text.rstrip("\ufffd"))


def test_markers_inside_of_arguments_are_arguments() -> None:
    words = vocabulary()
    arguments = '{"unit": "c", "text": "a </tool_call> {\\"} <tool_call> b"}'
    text = f'<tool_call>\n{{"name": "note", "arguments": {arguments}}}\n</tool_call>'
    for seed in range(20):
        read = _Read(HERMES, words)
        for piece in pieces(text, random.Random(seed)):
            read.take(read.reader.feed(piece))
        read.take(read.reader.finish())
        assert read.parsed() == [("note", {"unit": "c", "text": 'a </tool_call> {"} <tool_call> b'})]
        assert read.content == ""


def test_letters_that_spell_a_control_token_call_nothing() -> None:
    words = vocabulary("[TOOL_CALLS]", "[ARGS]")
    markup = markup_of(TEMPLATES["mistral-v11"][0])
    text = "Write [TOOL_CALLS]get[ARGS]{} to call."
    read = _Read(markup, words).tokens(list(text.encode()))
    assert (read.content, read.calls) == (text, [])


def test_the_same_call_again_ends_the_turn_and_is_not_sent() -> None:
    call = '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n'
    other = '<tool_call>\n{"name": "note", "arguments": {"unit": "c", "text": null}}\n</tool_call>\n'
    read = _Read(HERMES, vocabulary()).tokens(list((call + other + call + call).encode()), end=False)
    assert [name for name, _ in read.calls] == ["get", "note"]
    assert read.reader.done
    first = _Read(HERMES, vocabulary(), one=True).tokens(list((call + other).encode()), end=False)
    assert [name for name, _ in first.calls] == ["get"]
    assert first.reader.done


def test_a_block_that_is_no_call_is_the_text_it_is() -> None:
    text = "The format is <tool_call>like this</tool_call>, see?"
    read = _Read(HERMES, vocabulary()).tokens(list(text.encode()))
    assert (read.content, read.calls) == (text, [])


def test_with_auto_a_call_that_is_begun_must_be_valid_and_none_need_begin() -> None:
    words = vocabulary()
    grammar = _grammar(words, markup=HERMES, thinking=THINK)
    good = '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'
    for text in ("Hello.", f"Well. {good}", f"<think>\n<tool_call> maybe</think>\n{good} and so", good + "\n" + good):
        assert takes(words, grammar, text), text
    for text in ('<tool_call>\n{"name": "gone"', '<tool_call>\n{"name": "get", "arguments": {"a"', "x <tool_call> y"):
        assert not takes(words, grammar, text), text


def test_a_schema_and_tools_work_in_one_request() -> None:
    words = vocabulary()
    document = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    grammar = _grammar(words, markup=HERMES, document=json_rule(document), thinking=THINK, inside=True)
    call = '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>'
    for end in ('{"n": 3}', "\n\n" + '{"n": 3}', call, f"{call}\n{call}"):
        assert takes(words, grammar, "I think </thin so</think>" + end), end
    for end in ("words", '{"n": "3"}', call + '{"n": 3}'):
        assert not takes(words, grammar, "so</think>" + end), end
    assert not takes(words, grammar, "never done thinking")


def test_bare_calls_are_told_from_json_that_is_no_call() -> None:
    markup, words = markup_of(TEMPLATES["llama3"][0]), vocabulary("<|python_tag|>")
    grammar = _grammar(words, markup=markup)
    for text in ('{"name": "Bob"}', "{}", "Hello", '{"name": "get", "parameters": {}}'):
        assert takes(words, grammar, text), text
    assert not takes(words, grammar, '{"name": "get", "parameters": []}')
    assert _Read(markup, words).tokens(list(b'{"name": "Bob"}')).content == '{"name": "Bob"}'
    assert _Read(BARE, words).tokens(list(b'{"na')).content == ""


def test_channels_are_split_into_thought_words_and_calls() -> None:
    template, control = TEMPLATES["harmony"]
    words = vocabulary(*control)
    text = (
        "<|channel|>analysis<|message|>Hm <|x|>.<|end|><|start|>assistant<|channel|>commentary<|message|>I look."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get <|constrain|>json<|message|>{}<|call|>"
    )
    read = _Read(markup_of(template), words).tokens(ByteTokenizer(tuple(control)).encode(text))
    assert (read.reasoning, read.content, read.parsed()) == ("Hm <|x|>.", "I look.", [("get", {})])
    final = "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    read = _Read(markup_of(template), words).tokens(ByteTokenizer(tuple(control)).encode(final))
    assert (read.reasoning, read.content, read.calls) == ("So.", "Yes.", [])
    other = " to=functions.get<|channel|>commentary json<|message|>{}<|call|>"
    read = _Read(markup_of(template), words).tokens(ByteTokenizer(tuple(control)).encode(other))
    assert read.parsed() == [("get", {})]


def test_a_guide_without_tools_stands_in_the_answers_channel() -> None:
    words = vocabulary(*TEMPLATES["harmony"][1])
    document = json_rule({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    grammar = answer_grammar(Lark(Symbols(words)), Shape(document=document, channels=True))
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    final = '<|channel|>final<|message|>{"a": 1}'
    assert takes(words, grammar, final)
    assert takes(words, grammar, thought + final)
    for wrong in ('{"a": 1}', "<|channel|>final<|message|>Yes", '<|channel|>commentary<|message|>{"a": 1}', thought):
        assert not takes(words, grammar, wrong), wrong
